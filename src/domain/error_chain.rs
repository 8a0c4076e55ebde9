//! An error together with its causes, for the log.

use std::error::Error;
use std::fmt;

/// Displays an error and its sources, separated by colons: `cannot open x.db: Permission denied (os error 13)`.
pub(crate) struct ErrorChain<'a>(pub(crate) &'a dyn Error);

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open x.db")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn every_source_is_named_once() {
        let error = Outer(std::io::Error::other("the disk is full"));
        assert_eq!(ErrorChain(&error).to_string(), "cannot open x.db: the disk is full");
    }
}
