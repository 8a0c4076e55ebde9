//! The path or the name that somebody may have meant.

/// The most of a path that is compared, in bytes: the cost of a comparison grows with the lengths of both.
const MAX_COMPARED: usize = 128;

/// How unlike a path and the template of a route are, in characters to insert, delete or replace. A segment in braces is
/// like any other.
pub(super) fn distance(path: &str, template: &str) -> usize {
    let end = path.char_indices().map(|(at, _)| at).find(|at| *at >= MAX_COMPARED).unwrap_or(path.len());
    let path = &path[..end];
    let (mut actual, mut known) = (segments(path), segments(template));
    let mut total = 0;
    loop {
        total += match (actual.next(), known.next()) {
            (None, None) => return total,
            (Some(extra), None) | (None, Some(extra)) => extra.len() + 1,
            (Some(""), Some(known)) => known.len(),
            (Some(_), Some(known)) if known.starts_with('{') => 0,
            (Some(actual), Some(known)) => edits(actual, known),
        };
    }
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.trim_matches('/').split('/')
}

/// How many bytes have to be added, removed or replaced to make one name of the other (the Levenshtein distance). Upper and
/// lower case are alike.
pub(crate) fn edits(from: &str, to: &str) -> usize {
    let (from, to) = (from.as_bytes(), to.as_bytes());
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (index, actual) in from.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], index + 1);
        for (column, expected) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(!actual.eq_ignore_ascii_case(expected));
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(row[column].min(diagonal) + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_is_counted_in_characters_by_segment() {
        for (path, template, expected) in [
            ("/persons", "/persons", 0),
            ("/Persons/", "/persons", 0),
            ("/person", "/persons", 1),
            ("/prsons/1", "/persons/{key}", 1),
            ("/persons/1/2", "/persons/{key}", 2),
            ("/persons/1/event", "/persons/{key}/events", 1),
            ("/persons//events", "/persons/{key}/events", 5),
            ("/persons", "/persons/{key}", 6),
            ("/kitten", "/sitting", 3),
            ("", "/metrics", 7),
        ] {
            assert_eq!(distance(path, template), expected, "{path} {template}");
        }
    }

    #[test]
    fn only_the_beginning_of_a_long_path_is_compared() {
        let long = format!("/{}", "é".repeat(100_000));
        assert!(distance(&long, "/persons") <= MAX_COMPARED + 1);
    }
}
