//! What the documents say, compared with the code: settings, the protocol's tests, the guides' examples.

use std::path::Path;

use crate::harness::not_tested;

#[test]
fn every_setting_is_documented_with_its_default() {
    use clap::CommandFactory as _;
    let guide = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/settings.md")).unwrap();
    for setting in duality::Settings::command().get_arguments() {
        let Some(flag) = setting.get_long().filter(|flag| !["help", "version"].contains(flag)) else { continue };
        let row = guide.lines().find(|line| line.starts_with(&format!("| `--{flag}` |")));
        let row = row.unwrap_or_else(|| panic!("--{flag} is not in docs/settings.md"));
        let variable = format!("DUALITY_{}", flag.replace('-', "_").to_uppercase());
        assert_eq!(setting.get_env().and_then(|name| name.to_str()), Some(variable.as_str()));
        assert!(row.contains(&format!("`{variable}`")), "{row}");
        for default in setting.get_default_values() {
            assert!(row.contains(&format!("| `{}` |", default.to_str().unwrap())), "{row}");
        }
    }
}

/// Every `module::test_name` in a text.
fn named_tests(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let of_a_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    text.match_indices("::").map(move |(at, separator)| {
        let (before, after) = (&text[..at], &text[at + separator.len()..]);
        (
            &before[before.trim_end_matches(of_a_name).len()..],
            &after[..after.len() - after.trim_start_matches(of_a_name).len()],
        )
    })
}

#[test]
fn every_test_that_the_protocol_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let protocol = std::fs::read_to_string(root.join("docs/protocol.md")).unwrap();
    let is_link = |line: &&str| line.starts_with('[') && line.contains("]: ");
    let links: Vec<_> = protocol.lines().filter(is_link).collect();
    let body = protocol.lines().filter(|line| !is_link(line)).collect::<Vec<_>>().join("\n");
    let targets = links.join("\n");
    for (module, name) in named_tests(&body).chain(named_tests(&targets)) {
        let file = std::fs::read_to_string(root.join(format!("tests/promises/{module}.rs")));
        let file = file.unwrap_or_else(|error| panic!("{module}::{name}: {error}"));
        assert!(file.contains(&format!("#[test]\nfn {name}() {{")), "{module}::{name} is not a test");
        let link = format!("[{module}::{name}]: ../tests/promises/{module}.rs");
        assert!(links.contains(&link.as_str()), "{link} is missing");
        assert!(body.contains(&format!("[✓][{module}::{name}]")), "{module}::{name} is not used");
    }
    // Every section names at least one test.
    for section in body.split("\n## ").flat_map(|section| section.split("\n### ")).skip(1) {
        let (heading, text) = section.split_once('\n').unwrap();
        assert!(named_tests(text).next().is_some(), "{heading:?} names no test");
    }
}

#[test]
fn the_guides_show_the_examples_verbatim() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    for (guide, example) in
        [("docs/event-sourcing.md", "examples/loyalty.rs"), ("docs/projections.md", "examples/leaderboard.rs")]
    {
        let (text, code) = (read(guide), read(example));
        let shown = text.rsplit("```rust,no_run\n").next().unwrap().split("```").next().unwrap();
        assert!(code.contains(shown), "{guide} does not show {example} verbatim");
        assert!(code.lines().count() < 100, "{example} is too long for a guide");
    }
}

#[test]
fn the_guide_for_consumers_shows_programs_verbatim() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    let guide = read("docs/consumer.md");
    // `scripts/test-clients.sh` runs them.
    for (language, program, blocks) in
        [("python", "clients/python/consumer.py", 1), ("rust", "examples/consumer.rs", 2)]
    {
        let code = read(program);
        let shown: Vec<_> = guide.split(&format!("```{language}\n")).skip(1).collect();
        assert_eq!(shown.len(), blocks, "{language}");
        for block in shown {
            let block = block.split("```").next().unwrap();
            assert!(code.contains(block), "docs/consumer.md does not show {program} verbatim:\n{block}");
        }
    }
}

#[test]
fn the_guide_for_messaging_shows_programs_verbatim_in_at_most_thirty_lines() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    let guide = read("docs/messaging.md");
    // `scripts/test-messaging.sh` runs them.
    let python = ["follow_nats", "replay_nats", "keys_nats"].map(|name| read(&format!("clients/python/{name}.py")));
    for (language, programs, blocks) in [
        ("python", &python[..], 3),
        ("js", &[read("clients/js/follow_nats.mjs")], 1),
        ("rust", &[read("examples/follow_nats.rs")], 1),
    ] {
        let shown: Vec<_> = guide.split(&format!("```{language}\n")).skip(1).collect();
        assert_eq!(shown.len(), blocks, "{language}");
        for block in shown {
            let block = block.split("```").next().unwrap();
            let block = block.strip_prefix("// clients/js/follow_nats.mjs\n").unwrap_or(block);
            assert!(programs.iter().any(|code| code.contains(block)), "docs/messaging.md does not show it:\n{block}");
            let function = block.split("\nasync def main").next().unwrap();
            let is_code = |line: &&str| !line.is_empty() && !line.trim().starts_with(['/', '"']);
            assert!(function.lines().filter(is_code).count() <= 30, "it is too long:\n{function}");
        }
    }
}

#[test]
fn the_unit_for_systemd_is_valid_and_names_settings_that_there_are() {
    use clap::CommandFactory as _;
    let unit = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/duality.service")).unwrap();
    let named = unit.lines().filter_map(|line| line.strip_prefix("Environment=")?.split_once('='));
    let named: Vec<&str> = named.map(|(variable, _)| variable).collect();
    assert!(named.contains(&"DUALITY_DATABASE"), "{named:?}");
    for variable in named {
        let settings = duality::Settings::command();
        let mut known = settings.get_arguments().filter_map(|setting| setting.get_env()?.to_str());
        assert!(known.any(|known| known == variable), "{variable} is no setting");
    }
    let directory = crate::harness::directory();
    let path = directory.path().join("duality.service");
    std::fs::write(&path, unit.replace("/usr/local/bin/duality", env!("CARGO_BIN_EXE_duality"))).unwrap();
    let verified = std::process::Command::new("systemd-analyze").arg("verify").arg(&path).output();
    let Ok(verified) = verified else { return not_tested("the unit for systemd is", "there is no systemd-analyze") };
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success() && !said.contains("duality.service"), "{said}");
}
