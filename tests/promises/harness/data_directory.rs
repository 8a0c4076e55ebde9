//! The data directory of a new `PostgreSQL` server. It is made once, and each server that a test starts gets a copy: `initdb`
//! takes eight times as long as that.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use super::place;

/// A directory that is only copied.
struct DataDirectory {
    /// When it ends, or the pipe to it, the directory is removed.
    _keeper: Child,
    path: PathBuf,
}

/// Finds the programs of a server: Debian has most of them in no directory of the `PATH`.
const PROGRAMS: &str = r#"
    bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1)
    PATH=${bin:+$bin:}$PATH
"#;

/// Makes the directory, and removes it when the input ends.
const KEEPER: &str = r#"
    set -eu
    directory=$(mktemp -d "$PLACE/duality-initdb-XXXXXX")
    initdb --pgdata="$directory/data" --username=duality --auth=trust --encoding=UTF8 --locale=C --no-sync >"$directory/log"
    echo "$directory/data"
    cat >/dev/null || true
    rm -rf "$directory"
"#;

/// The directory of this process, which is `$DATA` for those who copy it.
fn data_directory() -> &'static Path {
    static DIRECTORY: LazyLock<DataDirectory> = LazyLock::new(|| {
        let mut keeper = shell(KEEPER).spawn().unwrap();
        let path = first_line(&mut keeper);
        assert!(!path.is_empty(), "initdb fails; its message is above");
        DataDirectory { _keeper: keeper, path: path.into() }
    });
    &DIRECTORY.path
}

/// Whether this machine has the programs of a server.
pub(super) fn is_installed() -> bool {
    let look = format!("{PROGRAMS} command -v initdb");
    let status = Command::new("sh").args(["-c", &look]).stderr(Stdio::null()).stdout(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// A shell for a script that starts servers.
pub(super) fn server_shell(script: &str) -> Command {
    let mut command = shell(script);
    command.env("DATA", data_directory());
    command
}

/// A shell of a user who may run a server, which root may not. What follows are the arguments of the script.
fn shell(script: &str) -> Command {
    let mut command = Command::new(if rustix::process::geteuid().is_root() { "runuser" } else { "sh" });
    if rustix::process::geteuid().is_root() {
        command.args(["-u", "postgres", "--", "sh"]);
    }
    command.args(["-c", &format!("{PROGRAMS}{script}"), "sh"]).env("PLACE", place()).current_dir("/");
    // What ends the tests and all their children at once would leave servers and directories.
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
    command
}

/// The first line that a script prints, without its end. Empty if it prints none.
pub(super) fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    line.trim().to_owned()
}
