//! The shipped service, whose change events also go to an MQTT broker: one message for each aggregate that changed.
//!
//!     mosquitto & cargo run --example publish_mqtt -- --database :memory:
//!     mosquitto_sub --protocol-version mqttv5 -t 'duality/#' -F '%t %P %p'
//!
//! MQTT numbers no messages, and keeps none but one retained message of each topic. Here, that of one topic is the checkpoint:
//! how many there were, and the last one about each collection, written when the broker has acknowledged a batch.
//! In a file, it would survive a broker that is killed and forgets messages, which nobody would publish again.
//!
//! - **Each message comes at least once**, and again if a batch fails before its checkpoint is written. The header `Sequence`
//!   has its number. Nothing can be removed: a reset is a catch-up, at whose begin a consumer starts from nothing.
//! - **A broker forgets.** Mosquitto keeps 1,000 messages for a client that is slow, and none when it is killed. A consumer sees
//!   it by `Sequence`, and by the number of the last message, which comes regularly beside the checkpoint.
//! - **Messages are not retained**: a merge patch is not a state. A consumer loads the state over HTTP, at each connection.
//! - **There is no fence.** A broker ends the connection of a client when another one has its id, and each connection begins
//!   with the checkpoint: two services take turns, with catch-ups of their own. Their logs show it; start only one.

use duality::{Carrier, CarrierError, Message, Output, Position, Settings, Stored, aggregates};
use rumqttc::v5::mqttbytes::QoS::{AtLeastOnce, AtMostOnce};
use rumqttc::v5::mqttbytes::v5::{Filter, Packet, PubAckReason, PublishProperties};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use serde::{Deserialize, Serialize};

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;
const CHECKPOINT: &str = "duality-checkpoint";

#[derive(Default, Serialize, Deserialize)]
struct Checkpoint {
    count: u64,
    last: Vec<Stored>,
}

struct Mqtt {
    options: MqttOptions,
    checkpoint: Checkpoint,
    connection: Option<(AsyncClient, EventLoop)>,
}

impl Carrier for Mqtt {
    async fn position(&mut self) -> Result<Position, CarrierError> {
        self.checkpoint = self.read().await?;
        let Checkpoint { count, last } = &self.checkpoint;
        Ok(Position { first: 1, last: *count, message: last.last().map(|last| last.message.clone()) })
    }

    async fn last_of(&mut self, collection: &str) -> Result<Option<Stored>, CarrierError> {
        Ok(self.checkpoint.last.iter().find(|stored| stored.message.collection == collection).cloned())
    }

    async fn append(&mut self, expected: u64, messages: &[Message]) -> Result<(), CarrierError> {
        if expected == self.checkpoint.count { Ok(self.publish(messages).await?) } else { Err(CarrierError::Conflict) }
    }

    async fn reset(&mut self, _: u64) -> Result<(), CarrierError> {
        Ok(())
    }
}

impl Mqtt {
    /// A subscription begins with the retained message. What is sent to the same topic afterwards comes after it.
    async fn read(&mut self) -> Result<Checkpoint> {
        let (client, mut events) = self.connection.take().unwrap_or_else(|| AsyncClient::new(self.options.clone(), 10));
        client.subscribe_many([Filter { preserve_retain: true, ..Filter::new(CHECKPOINT, AtMostOnce) }]).await?;
        client.publish(CHECKPOINT, AtMostOnce, false, format!(r#"{{"count":{}}}"#, self.checkpoint.count)).await?;
        let mut checkpoint = Checkpoint::default();
        loop {
            let Event::Incoming(Packet::Publish(publish)) = events.poll().await? else { continue };
            if !publish.retain {
                self.connection = Some((client, events));
                return Ok(checkpoint);
            }
            checkpoint = serde_json::from_slice(&publish.payload).unwrap_or_default();
        }
    }

    /// After an error or a timeout there is no connection any more, and nothing of it is on the way.
    async fn publish(&mut self, messages: &[Message]) -> Result<()> {
        let (client, mut events) = self.connection.take().ok_or("there is no connection")?;
        let sent = async {
            for (message, number) in messages.iter().zip(self.checkpoint.count + 1..) {
                let topic = message.subject().replace('/', "%2F").replace('+', "%2B").replace('#', "%23");
                let topic = format!("duality/{}", topic.replacen('.', "/", 1));
                let headers = message.headers().into_iter().map(|header| (header.name.to_owned(), header.value));
                let headers = headers.chain([("Sequence".to_owned(), number.to_string())]);
                let properties = PublishProperties { user_properties: headers.collect(), ..Default::default() };
                client.publish_with_properties(topic, AtLeastOnce, false, message.body.clone(), properties).await?;
            }
            Ok(())
        };
        tokio::try_join!(sent, acknowledged(&mut events, messages.len()))?;
        for message in messages.iter().cloned() {
            self.checkpoint.count += 1;
            self.checkpoint.last.retain(|other| other.message.collection != message.collection);
            self.checkpoint.last.push(Stored { number: self.checkpoint.count, message });
        }
        client.publish(CHECKPOINT, AtLeastOnce, true, serde_json::to_vec(&self.checkpoint)?).await?;
        acknowledged(&mut events, 1).await?;
        self.connection = Some((client, events));
        Ok(())
    }
}

async fn acknowledged(events: &mut EventLoop, mut messages: usize) -> Result<()> {
    while messages > 0 {
        let Event::Incoming(Packet::PubAck(answer)) = events.poll().await? else { continue };
        match answer.reason {
            PubAckReason::Success | PubAckReason::NoMatchingSubscribers => messages -= 1,
            reason => return Err(format!("the broker refuses a message: {reason:?}").into()),
        }
    }
    Ok(())
}

fn main() -> Result<std::process::ExitCode> {
    let port = std::env::var("MQTT_PORT").map_or(Ok(1883), |port| port.parse())?;
    let mut options = MqttOptions::new("duality", "localhost", port);
    options.set_max_packet_size(Some(1 << 24));
    let carrier = move || Mqtt { options: options.clone(), checkpoint: Checkpoint::default(), connection: None };
    Ok(aggregates::shipped().publish(Output::Changes, carrier).run(Settings::parse()))
}
