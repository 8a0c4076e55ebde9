//! Commands that another user runs leave no files that the service cannot use. Only root can be two users.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{App, make_older, not_tested, output_of};

/// The user of the service in these tests.
const SERVICE: u32 = 61_234;

/// A stopped database that belongs to the user of the service, in a directory of that user; `None` if this is not root.
fn of_service() -> Option<App> {
    let mut app = App::start();
    app.post("/persons", r#"{"name":"Ann"}"#);
    app.stop();
    let directory = app.database().parent().unwrap();
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let all: Vec<_> = files.chain([directory.to_owned()]).collect();
    let is_given = all.iter().all(|path| chown(path, Some(SERVICE), Some(SERVICE)).is_ok());
    if !is_given {
        not_tested("owners of files are", "only root can give files away");
    }
    is_given.then_some(app)
}

fn owners(paths: &[PathBuf]) -> Vec<u32> {
    paths.iter().map(|path| fs::metadata(path).unwrap().uid()).collect()
}

fn beside(database: &Path, name: &str) -> PathBuf {
    database.with_file_name(name)
}

#[test]
fn what_root_restores_belongs_to_the_user_of_the_service() {
    let Some(app) = of_service() else { return };
    let copy = beside(app.database(), "copy.db");
    assert_eq!(output_of(app.database(), &["backup", copy.to_str().unwrap()]).0, 0);
    for name in ["test.db", "new.db"] {
        let database = beside(app.database(), name);
        let (code, said) = output_of(&database, &["restore", copy.to_str().unwrap()]);
        assert_eq!(code, 0, "{said}");
        assert_eq!(owners(&[database, beside(app.database(), &format!("{name}.lock"))]), [SERVICE, SERVICE]);
    }
}

#[test]
fn what_root_does_with_tokens_leaves_their_file_to_the_user_of_the_service() {
    let Some(app) = of_service() else { return };
    let tokens = beside(app.database(), "test.tokens");
    let file = tokens.to_str().unwrap();
    for task in [&["new", "first", "--scope", "read"][..], &["new", "other", "--scope", "read"], &["revoke", "first"]] {
        let (code, said) = output_of(app.database(), &[&["--tokens", file, "token"], task].concat());
        assert_eq!(code, 0, "{said}");
        assert_eq!(owners(std::slice::from_ref(&tokens)), [SERVICE], "{task:?}");
    }
}

#[test]
fn a_token_file_of_another_user_is_refused() {
    const OTHER: u32 = SERVICE + 1;
    let Some(app) = of_service() else { return };
    let tokens = beside(app.database(), "test.tokens");
    let file = tokens.to_str().unwrap();
    assert_eq!(output_of(app.database(), &["--tokens", file, "token", "new", "first", "--scope", "read"]).0, 0);
    for (owner, mode, is_refused) in [(SERVICE, 0o600, false), (0, 0o640, false), (OTHER, 0o640, true)] {
        chown(&tokens, Some(owner), Some(SERVICE)).unwrap();
        fs::set_permissions(&tokens, fs::Permissions::from_mode(mode)).unwrap();
        let task = Command::new(env!("CARGO_BIN_EXE_duality"))
            .args(["--tokens", file, "token", "list"])
            .current_dir(tokens.parent().unwrap())
            .uid(SERVICE)
            .gid(SERVICE)
            .output();
        let Ok(task) = task else {
            return not_tested("the owner of a token file is", "another user cannot start the program where it is");
        };
        let log = String::from_utf8(task.stderr).unwrap();
        assert_eq!(task.status.code(), Some(i32::from(is_refused)), "{owner}: {log}");
        let expected = format!("belongs to the user {OTHER}, who can change it");
        assert_eq!(log.contains(&expected) && log.contains(&format!("chown {SERVICE} ")), is_refused, "{owner}: {log}");
        // Root gives files to others itself.
        assert_eq!(output_of(app.database(), &["--tokens", file, "token", "list"]).0, 0);
    }
}

#[test]
fn what_root_migrates_belongs_to_the_user_of_the_service() {
    let Some(app) = of_service() else { return };
    make_older(app.database());
    let (code, said) = output_of(app.database(), &["migrate"]);
    assert_eq!(code, 0, "{said}");
    let entries = fs::read_dir(app.database().parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> = entries.collect();
    assert!(files.iter().any(|path| path.to_str().unwrap().contains(".before-")), "{files:?}");
    assert!(owners(&files).iter().all(|owner| *owner == SERVICE), "{files:?}");
}

#[test]
fn a_rebuild_by_root_without_a_service_is_refused_and_names_the_owner() {
    let Some(app) = of_service() else { return };
    let (code, said) = output_of(app.database(), &["projection", "rebuild", "cart_items"]);
    assert!(code == 1 && said.contains("belongs to the user 61234"), "{said}");
    assert!(!beside(app.database(), "test.db.projections/cart_items.2.db").exists());
    let (code, said) = output_of(app.database(), &["projection", "list"]);
    assert_eq!((code, said.lines().count()), (0, 3), "{said}");
}
