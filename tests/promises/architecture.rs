//! The rules of the layout that a machine can check: which room may use which, and which crates a room may know.
//!
//! The order of the rooms is the order of the `mod` lines in `src/lib.rs`. To see the structure drawn from the imports:
//!
//!     cargo test --test promises architecture -- --nocapture

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Crates that only some rooms may use.
const ALLOWED_CRATES: [(&str, &[&str]); 6] = [
    ("diesel", &["storage", "read_model", "projector", "aggregates", "model_test"]),
    ("actix::", &["threads", "write", "read", "delivery", "projector", "publish", "http", "service"]),
    ("actix_web", &["memory", "write", "events", "read", "delivery", "http", "service", "model_test"]),
    ("russe", &["events", "model_test"]),
    ("flate2", &["read"]),
    ("async_nats::", &["publish"]),
];

/// The maximum number of rooms that a reader can keep in mind.
const MAX_ROOMS: usize = 20;

/// The text of every file in `src/`, by its relative path.
pub(crate) fn sources() -> BTreeMap<String, String> {
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

/// `storage/commit.rs` belongs to `storage`.
fn room(file: &str) -> &str {
    file.split('/').next().unwrap().trim_end_matches(".rs")
}

/// The code of a file without its unit tests and comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let end = text.find("#[cfg(test)]\nmod ").unwrap_or(text.len());
    text[..end].lines().filter(|line| !line.trim_start().starts_with("//"))
}

/// The rooms from the bottom up, as `lib.rs` lists them.
fn layers(sources: &BTreeMap<String, String>) -> Vec<String> {
    let declared = sources["lib.rs"].lines().filter_map(|line| {
        let line = line.strip_prefix("pub ").unwrap_or(line);
        line.strip_prefix("mod ")?.strip_suffix(';')
    });
    declared.map(str::to_owned).collect()
}

/// The lower-case names that follow `prefix` in a line: `crate::storage::commit` gives `storage`, then `commit`.
fn paths<'a>(line: &'a str, prefix: &'a str) -> impl Iterator<Item = Vec<&'a str>> {
    line.match_indices(prefix).map(move |(at, _)| {
        let of_a_path = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == ':';
        let rest = &line[at + prefix.len()..];
        let end = rest.find(|c| !of_a_path(c)).unwrap_or(rest.len());
        rest[..end].split("::").filter(|name| !name.is_empty()).collect()
    })
}

#[test]
fn rooms_import_downward_only() {
    let sources = sources();
    let layers = layers(&sources);
    let floor = |name: &str| layers.iter().position(|known| known == name);
    let mut arrows: BTreeMap<(&str, String), usize> = BTreeMap::new();
    for (file, text) in &sources {
        let user = room(file);
        if user == "main" || user == "lib" {
            continue;
        }
        let here = floor(user).unwrap_or_else(|| panic!("src/{file}: lib.rs does not list the room {user}"));
        for line in code(text) {
            assert!(
                !line.contains("crate::{") || user == "aggregates" || user == "testing",
                "{file}: one `use` line a module, so that this test can read it: {line}"
            );
            for path in paths(line, "crate::") {
                let Some(there) = path.first().and_then(|name| floor(name)) else { continue };
                assert!(there <= here, "{file} imports upward, from {}: {line}", path[0]);
                if there < here {
                    *arrows.entry((user, path[0].to_owned())).or_default() += 1;
                }
            }
        }
    }
    assert!(layers.len() <= MAX_ROOMS, "{} rooms", layers.len());
    println!("rooms, top down, and what each imports:");
    for layer in layers.iter().rev() {
        let used = arrows.iter().filter(|((user, _), _)| user == layer);
        let used: Vec<_> = used.map(|((_, used), times)| format!("{used} ({times})")).collect();
        println!("  {layer:<11} -> {}", used.join(", "));
    }
}

#[test]
fn files_of_a_room_do_not_import_each_other_in_a_circle() {
    let sources = sources();
    // `collection.rs` and the files of `collection/` are one node of the folder that they are in.
    let mut imports: BTreeMap<(String, &str), BTreeSet<String>> = BTreeMap::new();
    for (file, text) in &sources {
        let parts: Vec<&str> = file.trim_end_matches(".rs").split('/').collect();
        for depth in 1..parts.len() {
            let absolute = format!("crate::{}::", parts[..depth].join("::"));
            let relative = "super::".repeat(parts.len() - depth);
            let used = imports.entry((parts[..depth].join("/"), parts[depth])).or_default();
            for line in code(text) {
                let is_relative = !line.contains(&format!("super::{relative}"));
                let relative = paths(line, &relative).filter(|_| is_relative);
                let names = paths(line, &absolute)
                    .chain(relative)
                    .filter_map(|path| path.first().map(|name| (*name).to_owned()));
                used.extend(names.filter(|name| name != parts[depth] && name != "super"));
            }
        }
    }
    for (folder, node) in imports.keys() {
        let mut reached = BTreeSet::new();
        let mut next = vec![*node];
        while let Some(name) = next.pop() {
            for used in imports.get(&(folder.clone(), name)).into_iter().flatten() {
                assert!(used != node, "src/{folder}: {node} imports itself by way of {name}");
                if imports.contains_key(&(folder.clone(), used)) && reached.insert(used) {
                    next.push(used);
                }
            }
        }
    }
}

#[test]
fn a_room_uses_only_the_crates_that_it_may() {
    for (file, text) in sources() {
        for (name, allowed) in ALLOWED_CRATES {
            let uses = code(&text).find(|line| line.contains(name));
            assert!(allowed.contains(&room(&file)) || uses.is_none(), "{file} must not use {name}: {uses:?}");
        }
    }
}

#[test]
fn aggregates_use_the_public_interface_only() {
    for (file, text) in sources().iter().filter(|(file, _)| room(file) == "aggregates") {
        for line in code(text) {
            let private = paths(line, "crate::").find(|path| path.first().is_some_and(|room| *room != "aggregates"));
            assert!(private.is_none(), "{file}: {line}");
        }
    }
}

#[test]
fn the_pipeline_knows_no_aggregate() {
    for (file, text) in sources() {
        if ["aggregates", "main", "lib", "model_test"].contains(&room(&file)) {
            continue;
        }
        for word in ["Person", "Location", "Cart", "Account", "\"persons\"", "\"locations\"", "\"carts\""] {
            let knows = |line: &str| line.replace("\"Location\"", "").contains(word);
            assert!(!code(&text).any(knows), "{file} knows {word}");
        }
    }
}

/// The text of ARCHITECTURE.md, which describes what these tests check.
fn document() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md")).unwrap()
}

/// The lines of a section of ARCHITECTURE.md.
fn section<'a>(document: &'a str, heading: &str) -> Vec<&'a str> {
    let mut lines = document.lines().skip_while(|line| *line != format!("## {heading}"));
    assert!(lines.next().is_some(), "ARCHITECTURE.md has no section {heading:?}");
    lines.take_while(|line| !line.starts_with("## ")).collect()
}

/// Whether `text` has `word` as a whole identifier.
fn has_word(text: &str, word: &str) -> bool {
    let in_a_word = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word)
        .any(|(at, _)| !text[..at].ends_with(in_a_word) && !text[at + word.len()..].starts_with(in_a_word))
}

/// An item of a walk through the code: a file, and what the reader looks at there.
struct Step<'a> {
    file: &'a str,
    symbol: &'a str,
}

/// The numbered items of a section: "1. `file` `symbol`: …".
fn walk<'a>(document: &'a str, heading: &str) -> Vec<Step<'a>> {
    let items = section(document, heading).into_iter().filter(|line| line.starts_with(|c: char| c.is_ascii_digit()));
    let steps = items.enumerate().map(|(index, line)| {
        let step = line.strip_prefix(&format!("{}. `", index + 1)).and_then(|rest| {
            let (file, rest) = rest.split_once("` `")?;
            let (symbol, _) = rest.split_once("`: ")?;
            Some(Step { file, symbol })
        });
        step.unwrap_or_else(|| panic!("{heading}: not a number, `file` and `symbol`: {line}"))
    });
    steps.collect()
}

#[test]
fn the_walks_name_files_that_call_each_other_in_that_order() {
    let (document, sources) = (document(), sources());
    for (heading, max) in [("A write, from top to bottom", 13), ("An event, from top to bottom", 7)] {
        let steps = walk(&document, heading);
        assert!((2..=max).contains(&steps.len()), "{heading}: {} items", steps.len());
        let code_of = |file: &str| code(sources.get(file).unwrap_or_else(|| panic!("there is no src/{file}")));
        for (index, Step { file, symbol }) in steps.iter().enumerate() {
            let definitions =
                ["fn ", "struct ", "enum ", "trait ", "Handler<"].map(|before| format!("{before}{symbol}"));
            let is_defined = code_of(file).any(|line| definitions.iter().any(|definition| has_word(line, definition)));
            assert!(is_defined, "{heading}: src/{file} does not define {symbol}");
            let uses = |step: &&Step<'_>| {
                // An import names rooms such as `write`, too.
                let mut lines = code_of(step.file).filter(|line| !line.starts_with("use "));
                step.file != *file && lines.any(|line| has_word(line, symbol))
            };
            let user = steps[..index].iter().find(uses);
            assert!(index == 0 || user.is_some(), "{heading}: no file before src/{file} uses {symbol}");
        }
    }
}

#[test]
fn the_document_lists_all_files_in_the_order_of_the_rooms() {
    let (document, sources) = (document(), sources());
    let lines = section(&document, "Rooms").into_iter().skip_while(|line| *line != "```").skip(1);
    let (mut rooms, mut listed, mut folder) = (Vec::new(), BTreeSet::new(), String::new());
    for line in lines.take_while(|line| *line != "```") {
        if !line.starts_with(' ') {
            folder = line.split_whitespace().next().filter(|name| name.ends_with('/')).unwrap_or("").to_owned();
            rooms.extend(line.split_whitespace().next().map(|name| name.trim_end_matches(['/', ',']).to_owned()));
        }
        let names = line.split_whitespace().map(|name| name.trim_end_matches(','));
        for name in names.take_while(|name| name.ends_with(".rs")) {
            assert!(listed.insert(format!("{folder}{name}")), "{folder}{name} is listed twice");
        }
    }
    let files: BTreeSet<_> = sources.keys().filter(|file| !file.ends_with("mod.rs")).cloned().collect();
    let differences: Vec<_> = files.symmetric_difference(&listed).collect();
    assert!(differences.is_empty(), "listed or in src/, but not both: {differences:?}");
    let rooms: Vec<_> = rooms.iter().map(|name| name.trim_end_matches(".rs")).filter(|name| *name != "lib").collect();
    assert_eq!(rooms, layers(&sources), "the order of lib.rs");
}

#[test]
fn every_file_that_the_document_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = document();
    let names = document.split('`').skip(1).step_by(2).filter(|name| name.ends_with(".rs"));
    let mut count = 0;
    for name in names {
        let exists = ["src", "tests"].iter().any(|folder| root.join(folder).join(name).is_file())
            || (name.starts_with("tests/") && root.join(name).is_file());
        assert!(exists, "ARCHITECTURE.md names {name}");
        count += 1;
    }
    assert!(count > 20, "{count} names");
}
