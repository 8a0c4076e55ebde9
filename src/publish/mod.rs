//! Change events and domain events for message brokers. The outbox and the journal stay the truth; a broker gets copies.

pub(crate) mod actor;
pub(crate) mod address;
pub(crate) mod carrier;
pub(crate) mod changes;
pub(crate) mod erasing;
pub(crate) mod error;
pub(crate) mod heads;
pub(crate) mod journal;
pub(crate) mod message;
#[cfg(feature = "nats")]
pub(crate) mod nats;
pub(crate) mod outputs;
pub(crate) mod publisher;
pub(crate) mod source;
pub(crate) mod status;
pub(crate) mod subject;
