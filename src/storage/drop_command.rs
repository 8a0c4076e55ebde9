//! The command line that removes a collection: the way out for a start that is refused because of one.

use std::borrow::Cow;
use std::path::Path;

use super::location::is_on_server;

/// `target/debug/shop --database shop.db collection drop orders`
/// For a database on a server, whose URL may have a password, without the URL.
pub(super) fn drop_command(collection: &str, database: &Path) -> String {
    let program = std::env::args().next().unwrap_or_else(|| "duality".to_owned());
    let program = quoted(&program);
    if is_on_server(database) {
        return format!("{program} collection drop {collection}, with the settings of this start");
    }
    format!("{program} --database {} collection drop {collection}", quoted(&database.to_string_lossy()))
}

/// A text as a word of a shell.
fn quoted(text: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,=".contains(c);
    if text.chars().all(is_plain) { text.into() } else { format!("'{}'", text.replace('\'', r"'\''")).into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_quoted_as_a_shell_needs_it() {
        assert_eq!(quoted("/srv/shop-2.db"), "/srv/shop-2.db");
        assert_eq!(quoted("/srv/our shop.db"), "'/srv/our shop.db'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }

    #[test]
    fn the_url_of_a_server_is_not_in_it() {
        let command = drop_command("orders", Path::new("postgres://me:secret@db/shop"));
        assert!(command.ends_with(" collection drop orders, with the settings of this start"), "{command}");
    }
}
