//! What a service publishes, and the start of it.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;

use super::actor::PublisherActor;
use super::carrier::{Carrier, Output};
use super::changes::ChangeSource;
use super::journal::JournalSource;
use super::publisher::Publisher;
use super::source::Source;
use super::status::Status;
use crate::delivery::interest::Interest;
use crate::delivery::relay::{RegisterProjector, Relay};
use crate::domain::clock::Clock;
use crate::domain::collection::Registry;
use crate::projector::main_reader::MainReader;
use crate::storage::database::Database;
use crate::storage::error::StoreError;
use crate::threads::named_arbiter;

/// What publishers use.
#[derive(Clone)]
pub(crate) struct PublishContext {
    pub(crate) database: Arc<Database>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) clock: Arc<Clock>,
    pub(crate) relay: Addr<Relay>,
    pub(crate) poll_interval: Duration,
}

/// Starts an output on a thread of its own.
type Start = Arc<dyn Fn(&PublishContext, Status) -> Result<Arbiter, StoreError> + Send + Sync>;

/// Makes a carrier for the messages of a database.
pub(crate) trait MakeCarrier<C>: Fn(&Database) -> C + Send + Sync + 'static {}

impl<C, F: Fn(&Database) -> C + Send + Sync + 'static> MakeCarrier<C> for F {}

/// What a service publishes, before it runs.
#[derive(Clone, Default)]
pub(crate) struct Outputs(Vec<(Output, Start)>);

impl Outputs {
    /// Adds an output. The carrier is made on the thread on which it is used, for this database, each time that the service
    /// starts.
    pub(crate) fn add<C: Carrier + 'static>(&mut self, output: Output, carrier: impl MakeCarrier<C>) {
        let carrier = Arc::new(carrier);
        let start: Start = match output {
            Output::Changes => Arc::new(move |context, status| start(context, status, &carrier, ChangeSource::new)),
            Output::Journal => Arc::new(move |context, status| start(context, status, &carrier, JournalSource::new)),
        };
        self.0.push((output, start));
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Starts all of them. Returns their statuses, and the threads that have to be stopped.
    pub(crate) fn start(self, context: &PublishContext) -> Result<(Vec<Status>, Vec<Arbiter>), StoreError> {
        let start = |(output, start): (Output, Start)| {
            let status = Status::new(output);
            Ok((status.clone(), start(context, status)?))
        };
        self.0.into_iter().map(start).collect()
    }
}

fn start<C, S>(
    context: &PublishContext,
    status: Status,
    carrier: &Arc<impl MakeCarrier<C>>,
    source: fn(MainReader, Arc<Registry>, Arc<Clock>) -> S,
) -> Result<Arbiter, StoreError>
where
    C: Carrier + 'static,
    S: Source + Send + 'static,
{
    let PublishContext { database, registry, clock, relay, poll_interval } = context.clone();
    let source = source(MainReader::open(&database, &registry)?, registry, clock);
    let carrier = Arc::clone(carrier);
    let thread = named_arbiter(format!("pub:{}", S::OUTPUT.name()));
    let publisher = PublisherActor::start_in_arbiter(&thread.handle(), move |_| {
        PublisherActor::new(Publisher::new(carrier(&database), source, status, poll_interval), poll_interval)
    });
    relay.do_send(RegisterProjector { projector: publisher.recipient(), interest: Interest::Everything });
    Ok(thread)
}
