//! What is in files.

use std::path::{Path, PathBuf};

/// The files below a directory in which a text occurs.
pub(crate) fn files_with(directory: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    // A directory or a file may be removed meanwhile.
    let Ok(entries) = std::fs::read_dir(directory) else { return found };
    for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
        if path.is_dir() {
            found.extend(files_with(&path, text));
        } else if let Ok(content) = std::fs::read(&path)
            && memchr::memmem::find(&content, text.as_bytes()).is_some()
        {
            found.push(path);
        }
    }
    found
}
