//! How much memory everything that a client can make large takes, and may take.

pub(crate) mod budget;
pub(crate) mod fair_shares;
pub(crate) mod ledger;
