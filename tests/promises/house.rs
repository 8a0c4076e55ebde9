//! The architecture rules that a machine can check: which module may use which, and how long a file may be.

use std::collections::BTreeMap;
use std::path::Path;

/// The modules from the bottom up. A module may use itself and those listed before it.
const FLOORS: [&str; 39] = [
    "clock",
    "cursor",
    "key",
    "merge_patch",
    "precondition",
    "json",
    "collection",
    "projection",
    "feed",
    "store",
    "frames",
    "budget",
    "segments",
    "follow",
    "bodies",
    "spool",
    "verify",
    "admission",
    "answers",
    "aggregator",
    "socket",
    "channel",
    "readers",
    "heard",
    "relay",
    "projector",
    "projections",
    "hub",
    "session",
    "http",
    "settings",
    "running",
    "command_line",
    "service",
    "benchmarks",
    "testing",
    "collections",
    "law",
    "lib",
];

/// A crate that only some modules may know.
const FENCES: [(&str, &[&str]); 5] = [
    ("diesel", &["store", "projection", "projector", "collections"]),
    (
        "actix::",
        &["aggregator", "relay", "projector", "projections", "hub", "session", "readers", "http", "running", "service"],
    ),
    (
        "actix_web",
        &[
            "http", "answers", "running", "service", "frames", "socket", "channel", "hub", "budget", "bodies",
            "segments", "spool", "readers", "law",
        ],
    ),
    ("russe", &["frames", "law"]),
    ("flate2", &["bodies"]),
];

fn sources() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = BTreeMap::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                found.insert(name, std::fs::read_to_string(path).unwrap());
            }
        }
    }
    found
}

/// `store/commit.rs` belongs to `store`.
fn module(file: &str) -> &str {
    file.split('/').next().unwrap().trim_end_matches(".rs")
}

/// The code of a file without its unit tests and comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let end = text.find("#[cfg(test)]\nmod ").unwrap_or(text.len());
    text[..end].lines().filter(|line| !line.trim_start().starts_with("//"))
}

#[test]
fn imports_go_downward_only() {
    let floor = |name: &str| FLOORS.iter().position(|known| *known == name);
    for (file, text) in sources() {
        let user = module(&file);
        if user == "main" || user == "lib" {
            continue;
        }
        let here = floor(user).unwrap_or_else(|| panic!("{file} has no floor: add it to FLOORS, and say why there"));
        for line in code(&text) {
            let of_the_root =
                line.split_once("crate::{").is_none_or(|(_, group)| group.starts_with(char::is_uppercase));
            assert!(of_the_root, "{file}: a line for each module, so that this test can read it: {line}");
            for (at, _) in line.match_indices("crate::") {
                let used: String = line[at + 7..].chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
                let Some(there) = floor(&used) else { continue };
                assert!(there <= here, "{file} uses {used}, which is above it: {line}");
            }
        }
    }
}

#[test]
fn restricted_crates_are_used_only_where_allowed() {
    for (file, text) in sources() {
        for (fenced, allowed) in FENCES {
            let outside = !allowed.contains(&module(&file));
            let uses = code(&text).find(|line| line.contains(fenced));
            assert!(!(outside && uses.is_some()), "{file} must not know {fenced}: {uses:?}");
        }
    }
}

#[test]
fn the_pipeline_names_no_collection() {
    for (file, text) in sources() {
        if ["collections", "main", "lib", "law"].contains(&module(&file)) {
            continue;
        }
        for word in ["Person", "Location", "Cart", "Account", "\"persons\"", "\"locations\"", "\"carts\""] {
            let knows = |line: &str| line.replace("\"Location\"", "").contains(word);
            assert!(!code(&text).any(knows), "{file} knows {word}");
        }
    }
}

#[test]
fn a_file_is_about_one_noun() {
    for (file, text) in sources() {
        assert!(text.lines().count() <= 400, "{file} has {} lines", text.lines().count());
    }
}

#[test]
fn every_setting_is_in_the_readme_with_its_default() {
    use clap::CommandFactory as _;
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    for setting in duality::Settings::command().get_arguments() {
        let Some(flag) = setting.get_long().filter(|flag| !["help", "version"].contains(flag)) else { continue };
        let row = readme.lines().find(|line| line.starts_with(&format!("| `--{flag}` |")));
        let row = row.unwrap_or_else(|| panic!("--{flag} is not in the README"));
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
        let shown = text.split("```rust,no_run\nuse clap").nth(1).unwrap().split("```").next().unwrap();
        assert!(code.contains(shown), "{guide} does not show {example} verbatim");
        assert!(code.lines().count() < 100, "{example} is too long for a guide");
    }
}
