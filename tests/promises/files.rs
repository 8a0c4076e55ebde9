//! Files: only the owner can read them, and a task that only reads leaves none.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::harness::{Client, Process, eventually, output_of};

/// All files and directories below a directory, with their permissions.
fn modes(directory: &Path) -> BTreeMap<PathBuf, u32> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        // SQLite may remove a file at any time.
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            found.append(&mut modes(&entry.path()));
        }
        found.insert(entry.path(), metadata.permissions().mode() & 0o777);
    }
    found
}

#[test]
fn only_the_owner_can_read_the_files_whatever_the_mask_is() {
    let directory = crate::harness::directory();
    let database = directory.path().join("test.db");
    let masked = ["sh", "-c", "umask 0 && exec \"$0\" \"$@\""];
    let process = Process::start_by(&masked, &database, &["--retention", "0s"]);
    let json = [("Content-Type", "application/json")];
    Client::connect(process.address).request("POST", "/persons", &json, Some(br#"{"name":"Ann"}"#));
    let projections = directory.path().join("test.db.projections");
    eventually("the projections have their files", || {
        let names: Vec<_> = modes(&projections).into_keys().collect();
        ["history.db-wal", "carts.csv.1.csv", "cart_items.json"]
            .iter()
            .all(|name| names.contains(&projections.join(name)))
    });
    let found = modes(directory.path());
    for name in ["test.db", "test.db-wal", "test.db-shm", "test.db.lock", "test.db.sock"] {
        assert!(found.contains_key(&directory.path().join(name)), "{name} is missing in {found:?}");
    }
    for (path, mode) in found {
        assert_eq!(mode & 0o077, 0, "{}: {mode:o}", path.display());
    }
}

#[test]
fn a_task_that_finds_no_database_leaves_no_file() {
    for task in [
        &["projection", "list"][..],
        &["projection", "rebuild", "carts.csv"],
        &["verify"],
        &["migrate"],
        &["migrate", "--check"],
        &["backup", "copy.db"],
        &["restore", "nothing.db"],
    ] {
        let directory = crate::harness::directory();
        let (code, output) = output_of(&directory.path().join("nothing.db"), task);
        assert!(code == 1 && output.contains("there is no database"), "{task:?}: {output}");
        assert_eq!(modes(directory.path()), BTreeMap::new(), "{task:?}");
    }
}

#[test]
fn a_task_that_only_reads_leaves_no_file() {
    let directory = crate::harness::directory();
    let database = directory.path().join("test.db");
    let mut process = Process::start(&database, &[]);
    process.signal("TERM");
    assert!(process.wait().success());
    std::fs::remove_file(directory.path().join("test.db.lock")).unwrap();
    let before = modes(directory.path());
    for task in [&["projection", "list"][..], &["verify"], &["migrate", "--check"]] {
        let (code, output) = output_of(&database, task);
        assert_eq!(code, 0, "{task:?}: {output}");
        assert_eq!(modes(directory.path()), before, "{task:?}");
    }
}
