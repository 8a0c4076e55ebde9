//! Who publishes into a stream: one service at a time.
//!
//! It answers questions at a subject of the stream. The next one asks there before it publishes, and waits if it gets an
//! answer. On a busy machine an answer may come too late, so whoever takes the stream says so: who had it before stands by then.
//! That keeps two services from taking turns; what keeps their messages apart in any case are the expected sequence numbers.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use async_nats::{Client, Message, StatusCode, Subscriber};
use futures_core::Stream as _;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use super::connection::generation;
use super::unavailable;
use crate::publish::carrier::CarrierError;

/// How long to wait for an answer, if somebody is there who could give one.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// The most characters that are shown of what another service says about itself.
const MAX_NAME: usize = 300;

/// Whose messages a service publishes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owner {
    /// For people: `the database /srv/shop.db`.
    pub(crate) name: String,
    /// What only services with the same database have in common: its epoch. Earlier versions say nothing about it.
    #[serde(default)]
    pub(crate) record: String,
}

/// Whether this service publishes into a stream.
pub(super) struct Ownership {
    subject: String,
    /// Another one for each carrier.
    instance: String,
    owner: Owner,
    held: Option<Held>,
}

/// What a service says about itself when it asks and when it answers.
#[derive(Debug, Serialize, Deserialize)]
struct Claim {
    instance: String,
    stage: Stage,
    #[serde(flatten)]
    owner: Owner,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Stage {
    /// It wants to publish.
    Asking,
    /// It publishes.
    Publishing,
    /// Another one goes first: one that has asked at the same time, or has taken the stream since.
    Yielding(Owner),
}

/// The subscription by which questions are answered; it ends with this value.
struct Held {
    generation: u64,
    stage: Arc<Mutex<Stage>>,
    answers: JoinHandle<()>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.answers.abort();
    }
}

impl Ownership {
    /// Asks and answers at this subject. `owner` says whose messages these are.
    pub(super) fn new(subject: String, owner: &Owner) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let name = format!("{}, process {} on {host}", owner.name, std::process::id());
        let owner = Owner { name, record: owner.record.clone() };
        // Without random numbers, the process id and the time are different enough.
        let random =
            getrandom::u64().unwrap_or_else(|_| UNIX_EPOCH.elapsed().map_or(0, |age| age.subsec_nanos().into()));
        let instance = format!("{random:016x}-{}", std::process::id());
        Self { subject, instance, owner, held: None }
    }

    /// Whether this service publishes, and has been connected all the time since it is certain.
    pub(super) fn is_held(&self, client: &Client) -> bool {
        self.held
            .as_ref()
            .is_some_and(|held| held.generation == generation(client) && held.stage() == Stage::Publishing)
    }

    /// Gives it up, or what it seemed to be.
    pub(super) fn release(&mut self) {
        self.held = None;
    }

    /// Takes the stream, unless another service has it.
    ///
    /// # Errors
    /// [`CarrierError::Taken`] or [`CarrierError::StandBy`], with what the other service says about itself.
    pub(super) async fn take(&mut self, client: &Client) -> Result<(), CarrierError> {
        if self.is_held(client) {
            return Ok(());
        }
        self.release();
        let held = self.answer(client).await?;
        if let Some(other) = self.ask(client).await? {
            return Err(self.left_to(other));
        }
        held.publish().map_err(|other| self.left_to(other))?;
        self.held = Some(held);
        self.announce(client).await
    }

    /// Why this service does not publish any more.
    pub(super) fn loss(&self) -> CarrierError {
        match self.held.as_ref().map(Held::stage) {
            Some(Stage::Yielding(other)) => self.left_to(other),
            _ => unavailable("the connection to NATS was lost in between"),
        }
    }

    /// Says that this service publishes now. Another one that was asked, and did not answer in time, believes that it does.
    pub(super) async fn announce(&self, client: &Client) -> Result<(), CarrierError> {
        let claim = self.claim(Stage::Publishing).text()?;
        client.publish(self.subject.clone(), claim.into()).await.map_err(unavailable)
    }

    /// Why another service publishes in the place of this one.
    fn left_to(&self, other: Owner) -> CarrierError {
        // Each start on a file begins an epoch.
        if other.record == self.owner.record {
            CarrierError::StandBy(other.name)
        } else {
            CarrierError::Taken(other.name)
        }
    }

    /// Begins to answer the questions of others.
    async fn answer(&self, client: &Client) -> Result<Held, CarrierError> {
        let generation = generation(client);
        let questions = client.subscribe(self.subject.clone()).await.map_err(unavailable)?;
        let stage = Arc::new(Mutex::new(Stage::Asking));
        let answers = tokio::spawn(answer(client.clone(), questions, self.claim(Stage::Asking), stage.clone()));
        Ok(Held { generation, stage, answers })
    }

    /// The service that goes first, if there is one.
    ///
    /// The server says at once that nobody is there: what this connection has sent is not for this connection.
    async fn ask(&self, client: &Client) -> Result<Option<Owner>, CarrierError> {
        let inbox = client.new_inbox();
        let mut answers = client.subscribe(inbox.clone()).await.map_err(unavailable)?;
        let question = self.claim(Stage::Asking).text()?;
        client.publish_with_reply(self.subject.clone(), inbox, question.into()).await.map_err(unavailable)?;
        let first = async {
            while let Some(answer) = next(&mut answers).await {
                if answer.status == Some(StatusCode::NO_RESPONDERS) {
                    return None;
                }
                match Claim::read(&answer) {
                    Some(other) if other.goes_before(&self.instance) => return Some(other.shown()),
                    _ => {}
                }
            }
            None
        };
        // Who does not answer has stopped, and asks again when it goes on. If it was only slow, it hears who publishes.
        Ok(tokio::time::timeout(ANSWER_TIMEOUT, first).await.unwrap_or_default())
    }

    /// Holds the stream without asking, as if nobody had answered, and tells nobody.
    #[cfg(test)]
    pub(super) async fn pretend(&mut self, client: &Client) {
        let held = self.answer(client).await.unwrap();
        held.publish().unwrap();
        self.held = Some(held);
    }

    fn claim(&self, stage: Stage) -> Claim {
        Claim { instance: self.instance.clone(), stage, owner: self.owner.clone() }
    }
}

impl Held {
    fn stage(&self) -> Stage {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From asking to publishing.
    ///
    /// # Errors
    /// Another service goes first.
    fn publish(&self) -> Result<(), Owner> {
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        if let Stage::Yielding(other) = &*stage {
            return Err(other.clone());
        }
        *stage = Stage::Publishing;
        Ok(())
    }
}

impl Claim {
    fn read(message: &Message) -> Option<Self> {
        serde_json::from_slice(&message.payload).ok()
    }

    fn text(&self) -> Result<String, CarrierError> {
        serde_json::to_string(self).map_err(unavailable)
    }

    /// Whether this other service goes first: the one that publishes, or of those that ask at the same time, the one
    /// whose id is less.
    fn goes_before(&self, instance: &str) -> bool {
        match self.stage {
            Stage::Publishing => self.instance != instance,
            Stage::Asking => self.instance.as_str() < instance,
            Stage::Yielding(_) => false,
        }
    }

    /// What the other service says about itself. Anybody can send it.
    fn shown(self) -> Owner {
        let shown = |character: char| if character.is_control() { ' ' } else { character };
        let name = self.owner.name.chars().map(shown).take(MAX_NAME).collect();
        Owner { name, ..self.owner }
    }
}

impl Stage {
    /// What follows for this service from what another one says.
    fn hear(&mut self, instance: &str, other: Claim) {
        let is_passed = match self {
            Self::Asking => other.goes_before(instance),
            Self::Publishing => other.stage == Self::Publishing && other.goes_before(instance),
            Self::Yielding(_) => false,
        };
        if is_passed {
            *self = Self::Yielding(other.shown());
        }
    }
}

/// Hears what other services say, and answers their questions.
async fn answer(client: Client, mut claims: Subscriber, me: Claim, stage: Arc<Mutex<Stage>>) {
    let mut me = me;
    while let Some(claim) = next(&mut claims).await {
        let Some(other) = Claim::read(&claim) else { continue };
        me.stage = {
            let mut stage = stage.lock().unwrap_or_else(PoisonError::into_inner);
            stage.hear(&me.instance, other);
            stage.clone()
        };
        let (Some(reply), Ok(text)) = (claim.reply, me.text()) else { continue };
        if client.publish(reply, text.into()).await.is_err() {
            return;
        }
    }
}

async fn next(messages: &mut Subscriber) -> Option<Message> {
    poll_fn(|context| Pin::new(&mut *messages).poll_next(context)).await
}
