//! How many heads of requests there are among the bytes of a connection, which may also be those of a body in chunks.

use memchr::memchr_iter;

/// What the first line of a head ends with, before the digit of its minor version.
const VERSION: &[u8; 7] = b"HTTP/1.";

/// Counts lines and complete heads. A head begins with a line that ends with a version, and ends with an empty line; empty
/// lines before it do not count, and neither do paragraphs of something else.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Heads {
    complete: usize,
    /// All lines of heads, also of an incomplete one, with the empty ones that end them.
    lines: usize,
    /// Whether a head, or a paragraph of something else, has begun and not ended.
    is_open: bool,
    /// Whether what has begun is a head.
    is_head: bool,
    /// Whether the current line has any character.
    has_text: bool,
    /// The last characters of the current line, without its end.
    last: [u8; VERSION.len() + 1],
}

impl Heads {
    /// With bytes that have arrived behind what was counted.
    pub(super) fn with(mut self, bytes: &[u8]) -> Self {
        let mut start = 0;
        for end in memchr_iter(b'\n', bytes) {
            self.go_on(&bytes[start..end]);
            self.end_line();
            start = end + 1;
        }
        self.go_on(&bytes[start..]);
        self
    }

    /// Without the first head, which has this many headers.
    pub(super) fn without_first(self, headers: usize) -> Self {
        let lines = self.lines.saturating_sub(headers + 2);
        Self { complete: self.complete.saturating_sub(1), lines, ..self }
    }

    pub(super) fn complete(self) -> usize {
        self.complete
    }

    pub(super) fn lines(self) -> usize {
        self.lines
    }

    /// A part of the current line.
    fn go_on(&mut self, part: &[u8]) {
        self.has_text |= has_text(part);
        if self.is_open {
            return;
        }
        let part = part.strip_suffix(b"\r").unwrap_or(part);
        let kept = part.len().min(self.last.len());
        self.last.rotate_left(kept);
        let from = self.last.len() - kept;
        self.last[from..].copy_from_slice(&part[part.len() - kept..]);
    }

    fn end_line(&mut self) {
        let has_text = std::mem::take(&mut self.has_text);
        if has_text && !self.is_open {
            self.is_head = self.last.starts_with(VERSION);
        }
        if has_text || self.is_open {
            self.lines += 1;
        }
        if self.is_open && !has_text && self.is_head {
            self.complete += 1;
        }
        self.is_open = has_text;
        if !self.is_open {
            self.last = Default::default();
        }
    }
}

/// Whether a part of a line has more than its end.
fn has_text(part: &[u8]) -> bool {
    !matches!(part, [] | [b'\r'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_counted_however_they_arrive() {
        for (text, complete, lines) in [
            ("", 0, 0),
            ("GET / HTTP/1.1\r\n", 0, 1),
            ("GET / HTTP/1.1\r\n\r\n", 1, 2),
            ("GET / HTTP/1.1\n\nGET / HTTP/1.1\nhost: a\n\n", 2, 5),
            ("\r\n\r\n\n\n\r\nGET / HTTP/1.1\r\na: b\r\n\r\n\r\n", 1, 3),
            ("GET / HTTP/1.1\r\n\r\nGET", 1, 2),
            ("2\r\n{}\r\n0\r\n\r\nGET / HTTP/1.0\r\n\r\n", 1, 6),
            ("2\r\n\n\n\r\n2\r\n\n\n\r\n0\r\n\r\n", 0, 6),
        ] {
            let whole = Heads::default().with(text.as_bytes());
            assert_eq!((whole.complete(), whole.lines()), (complete, lines), "{text:?}");
            let bytewise = text.as_bytes().chunks(1).fold(Heads::default(), Heads::with);
            assert_eq!(bytewise, whole, "{text:?}");
        }
        let rest = Heads::default().with(b"GET / HTTP/1.1\na: b\n\nGET / HTTP/1.1\n\n").without_first(1);
        assert_eq!((rest.complete(), rest.lines()), (1, 2));
    }
}
