//! A database on a server: its tables, and the tasks that it does not have.

use std::collections::BTreeSet;
use std::path::Path;

use crate::harness::{App, is_postgres, lines, output_of};

/// The columns that a schema declares: `outbox.revision BigInt`.
fn declared(schema: &str) -> BTreeSet<String> {
    let mut table = "";
    let mut columns = BTreeSet::new();
    for line in schema.lines().map(str::trim) {
        if let Some((name, _)) = line.split_once(" (").filter(|_| line.ends_with('{')) {
            table = name;
        } else if let Some((column, kind)) = line.split_once(" -> ") {
            columns.insert(format!("{table}.{column} {}", kind.trim_end_matches(',')));
        }
    }
    columns
}

#[test]
fn the_tables_on_a_server_are_those_that_the_program_knows() {
    if !is_postgres() {
        return;
    }
    let app = App::start();
    let query = "
        SELECT table_name || '.' || column_name || ' ' || CASE is_nullable WHEN 'YES' THEN 'Nullable<' ELSE '' END
            || CASE data_type WHEN 'bigint' THEN 'BigInt' WHEN 'integer' THEN 'Integer' WHEN 'text' THEN 'Text'
                WHEN 'bytea' THEN 'Binary' ELSE data_type END
            || CASE is_nullable WHEN 'YES' THEN '>' ELSE '' END AS line
        FROM information_schema.columns WHERE table_schema = 'public' AND table_name NOT LIKE '\\_\\_%'";
    let found: BTreeSet<_> = lines(app.database(), query).into_iter().collect();
    let only_on_servers = declared(include_str!("../../src/storage/postgres/schema.rs"));
    let mut expected = declared(include_str!("../../src/storage/schema.rs"));
    // A file has other columns there: those about its log.
    expected.retain(|column| !column.starts_with("metadata."));
    expected.extend(only_on_servers);
    assert_eq!(found, expected);
}

#[test]
fn a_database_on_a_server_is_copied_with_the_tools_of_the_server() {
    let nowhere = Path::new("postgres://somebody:secret@127.0.0.1:1/shop");
    for (task, tool) in [("backup", "pg_dump "), ("restore", "pg_restore ")] {
        let (code, said) = output_of(nowhere, &[task, "copy.db"]);
        assert!(code == 1 && said.contains(tool) && !said.contains("secret"), "{said}");
    }
    assert!(!Path::new("copy.db").exists());
}

#[test]
fn a_task_that_does_not_reach_the_server_names_it_without_its_secrets() {
    let nowhere = Path::new("postgres://somebody:secret@127.0.0.1:1/shop?connect_timeout=1");
    for task in [&["verify"][..], &["migrate", "--check"], &["projection", "list"]] {
        let (code, said) = output_of(nowhere, task);
        let is_named = said.contains("cannot connect to postgres://127.0.0.1:1/shop: ");
        assert!(code == 1 && is_named && !said.contains("secret"), "{task:?}: {said}");
    }
}
