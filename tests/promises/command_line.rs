//! What the command line says about itself: help, completions, the manual page.

use std::io::Write as _;
use std::process::{Command, Stdio};

use clap::CommandFactory as _;
use duality::Settings;

use crate::harness::not_tested;

const GROUPS: [&str; 6] = ["Serving", "Storage", "Limits", "Security", "Publishing", "Tuning"];

/// The standard output of the program.
fn output(arguments: &[&str]) -> String {
    let run = Command::new(env!("CARGO_BIN_EXE_duality")).args(arguments).current_dir("/").output().unwrap();
    assert!(run.status.success() && run.stderr.is_empty(), "{}", String::from_utf8_lossy(&run.stderr));
    String::from_utf8(run.stdout).unwrap()
}

/// The long names of all settings.
fn flags() -> Vec<String> {
    let flags: Vec<_> =
        Settings::command().get_arguments().filter_map(|arg| arg.get_long().map(str::to_owned)).collect();
    assert!(flags.len() > 30, "{flags:?}");
    flags
}

/// What a program makes of a text; `None` if this machine does not have the program.
fn filtered(program: &str, arguments: &[&str], text: &str) -> Option<String> {
    let mut command = Command::new(program);
    command.args(arguments).env("MANWIDTH", "120").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut child) = command.spawn() else {
        not_tested(program, "it is not installed");
        return None;
    };
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && errors.is_empty(), "{program}: {errors}");
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn help_lists_the_settings_in_groups_and_ends_with_examples() {
    for form in ["--help", "-h"] {
        let help = output(&[form]);
        let headings: Vec<_> = help.lines().filter_map(|line| line.strip_suffix(':')).collect();
        let expected: Vec<_> = ["Commands", "Options"].into_iter().chain(GROUPS).chain(["Examples"]).collect();
        assert_eq!(headings, expected, "{help}");
        let (options, groups) = help.split_once("\nServing:").unwrap();
        let own = options.split_once("\nOptions:").unwrap().1;
        assert_eq!(own.matches("  --").count() + own.matches(", --").count(), 2, "{own}");
        let (groups, examples) = groups.split_once("\nExamples:").unwrap();
        for flag in flags() {
            assert!(groups.contains(&format!(" --{flag} ")) || groups.contains(&format!(" --{flag}\n")), "--{flag}");
        }
        assert_eq!(examples.matches("\n  duality").count(), 3, "{examples}");
    }
}

#[test]
fn every_example_of_the_help_is_a_valid_command_line() {
    let help = output(&["--help"]);
    let mut count = 0;
    for example in help.lines().filter(|line| line.starts_with("  duality")) {
        Settings::command().try_get_matches_from(example.split_whitespace()).unwrap();
        count += 1;
    }
    assert_eq!(count, 3);
}

#[test]
fn completions_know_every_setting() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = output(&["completions", shell]);
        for flag in flags() {
            assert!(script.contains(&flag), "{shell}: --{flag}");
        }
        for task in ["backup", "restore", "completions"] {
            assert!(script.contains(task), "{shell}: {task}");
        }
    }
}

#[test]
fn bash_completes_a_setting() {
    let script = output(&["completions", "bash"])
        + "\nCOMP_WORDS=(duality --list); COMP_CWORD=1; _duality duality --list duality; \
                  echo \"${COMPREPLY[@]}\"\n";
    if let Some(completed) = filtered("bash", &[], &script) {
        assert_eq!(completed.trim(), "--listen");
    }
}

#[test]
fn the_manual_page_has_every_setting_and_the_examples() {
    let page = output(&["man"]);
    for flag in flags() {
        assert!(page.contains(&flag.replace('-', "\\-")), "--{flag}");
    }
    let Some(text) = filtered("man", &["-l", "-"], &page) else { return };
    for group in GROUPS {
        assert!(text.lines().any(|line| line == group.to_uppercase()), "{group}: {text}");
    }
    for expected in [
        "duality [OPTIONS] [COMMAND]",
        "duality backup [OPTIONS] <FILE|->",
        "duality --database :memory: --listen 127.0.0.1:3001",
    ] {
        assert!(text.lines().any(|line| line.trim() == expected), "{expected}: {text}");
    }
}

#[test]
fn completions_and_the_manual_page_do_not_depend_on_the_environment() {
    for task in [&["man"][..], &["completions", "bash"]] {
        let mut run = Command::new(env!("CARGO_BIN_EXE_duality"));
        run.args(task).env("DUALITY_HEARTBEAT", "abc").env("DUALITY_HARTBEAT", "1s");
        let printed = run.output().unwrap();
        assert!(printed.status.success(), "{task:?}");
        assert_eq!((&*printed.stderr, &*printed.stdout), (&b""[..], output(task).as_bytes()), "{task:?}");
    }
    let mut other = Command::new(env!("CARGO_BIN_EXE_duality"));
    let refused = other.args(["verify"]).env("DUALITY_HEARTBEAT", "abc").output().unwrap();
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("DUALITY_HEARTBEAT"));
}
