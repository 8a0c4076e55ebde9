//! Who may do what: tokens with their scopes, and what a request needs.

pub(crate) mod caller;
pub(crate) mod grant;
pub(crate) mod need;
pub(crate) mod permissions;
pub(crate) mod redaction;
pub(crate) mod scope;
pub(crate) mod tickets;
pub(crate) mod token;
pub(crate) mod token_file;
pub(crate) mod tokens;
