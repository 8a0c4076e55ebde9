//! What shells and `man` know about the command line, written from its declaration.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::service::settings::Settings;
use crate::service::task::{TaskError, TaskOutcome};

/// Prints the completions of a shell for the program under the name by which it was called.
pub(super) fn print_completions(shell: Shell) -> Result<TaskOutcome, TaskError> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Settings::described(), program_name(), &mut text);
    print(&text)
}

/// Prints the manual page.
pub(super) fn print_manual() -> Result<TaskOutcome, TaskError> {
    let name = program_name();
    let mut command = Settings::described().display_name(&name).bin_name(&name);
    command.build();
    let mut text = Vec::new();
    render(&mut command, &mut text).map_err(TaskError::Print)?;
    print(&text)
}

/// Writes what clap knows. The sections of tasks and examples are our own: clap refers to a page for each task, and has no
/// name for the examples.
fn render(command: &mut Command, text: &mut Vec<u8>) -> io::Result<()> {
    let page = Man::new(command.clone());
    page.render_title(text)?;
    page.render_name_section(text)?;
    writeln!(text, ".SH SYNOPSIS\n{}", escaped(&usage(command)))?;
    page.render_description_section(text)?;
    page.render_options_section(text)?;
    writeln!(text, ".SH TASKS")?;
    for task in command.get_subcommands_mut().filter(|task| task.get_name() != "help") {
        let about = task.get_about().map(ToString::to_string).unwrap_or_default();
        writeln!(text, ".TP\n\\fB{}\\fR\n{}", escaped(&usage(task)), escaped(&about))?;
    }
    let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let examples = examples.trim_start_matches("Examples:\n");
    writeln!(text, ".SH EXAMPLES\n.nf\n{}\n.fi", escaped(examples))?;
    page.render_version_section(text)
}

/// `duality backup [OPTIONS] <FILE|->`
fn usage(command: &mut Command) -> String {
    command.render_usage().to_string().trim_start_matches("Usage: ").to_owned()
}

/// A text without what roff would take for a command.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-").replace("\n.", "\n\\&.").replace("\n'", "\n\\&'")
}

/// The file name of the program.
fn program_name() -> String {
    let name = std::env::args_os().next().map(PathBuf::from);
    let name = name.as_deref().and_then(|path| path.file_name()).map(OsString::from);
    name.and_then(|name| name.into_string().ok()).unwrap_or_else(|| "duality".to_owned())
}

fn print(text: &[u8]) -> Result<TaskOutcome, TaskError> {
    match io::stdout().write_all(text) {
        // Whoever reads it has enough: `duality man | head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(TaskOutcome::Success),
        printed => printed.map(|()| TaskOutcome::Success).map_err(TaskError::Print),
    }
}
