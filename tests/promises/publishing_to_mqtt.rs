//! `examples/publish_mqtt.rs` with a real MQTT broker: both are killed, and copies end as the state.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::harness::mosquitto::{Mosquitto, Subscriber};
use crate::harness::{Client, Process, Random, example, kills};

struct World {
    program: PathBuf,
    database: PathBuf,
    broker: Mosquitto,
    service: Option<Process>,
    random: Random,
}

impl World {
    fn start_service(&mut self) {
        let port = self.broker.address.port().to_string();
        self.service = Some(Process::start_other(&self.program, &[("MQTT_PORT", &port)], &self.database));
    }

    fn kill_service(&mut self) {
        self.service.take().unwrap().kill();
    }

    fn address(&self) -> SocketAddr {
        self.service.as_ref().unwrap().address
    }

    fn write(&mut self, writes: u32) {
        let mut client = Client::connect(self.address());
        for _ in 0..writes {
            let (key, number) = (1 + self.random.below(9), self.random.below(3));
            let city = *self.random.one_of(&["Rome", "St. Gallen", "a/b+#*>", "\u{1f600}"]);
            let uuid = format!("00000000-0000-4000-8000-00000000000{number}");
            let (method, path, body) = match self.random.below(7) {
                0 | 1 => ("POST", "/persons".to_owned(), json!({"name": "Ann", "city": city})),
                2 | 3 => ("PATCH", format!("/persons/{key}"), json!({"city": city})),
                4 => ("DELETE", format!("/persons/{key}"), json!(null)),
                5 => ("PUT", format!("/carts/{uuid}"), json!({})),
                _ => ("POST", format!("/carts/{uuid}/add-item"), json!({"item": key.to_string()})),
            };
            let json = [("Content-Type", "application/json")];
            client.request(method, &path, &json, Some(body.to_string().as_bytes()));
        }
    }
}

fn world(database: &Path) -> Option<World> {
    let broker = Mosquitto::start()?;
    let program = example("publish_mqtt")?;
    let database = database.to_owned();
    let mut world = World { program, database, broker, service: None, random: Random::new(2026) };
    world.start_service();
    Some(world)
}

#[test]
fn copies_that_follow_mqtt_end_as_the_state_whatever_is_killed() {
    let directory = crate::harness::directory();
    let Some(mut world) = world(&directory.path().join("mqtt.db")) else { return };
    let first = Subscriber::start(world.broker.address, world.address());
    first.assert_exact();
    world.write(100);
    first.assert_exact();
    assert!(first.applied() > 0, "messages change the copy");
    for round in 0..kills() {
        let late = Subscriber::start(world.broker.address, world.address());
        let copies = [&first, &late];
        world.write(20);

        world.kill_service();
        world.start_service();
        copies.iter().for_each(|copy| copy.moved(world.address()));
        world.write(20);
        copies.iter().for_each(|copy| copy.assert_exact());

        world.broker.kill();
        world.write(20);
        world.broker.resume();
        world.write(20);
        copies.iter().for_each(|copy| copy.assert_exact());

        // A broker without its checkpoint gets all states.
        world.broker.kill();
        world.kill_service();
        if round % 2 == 0 {
            world.broker.forget();
        }
        world.broker.resume();
        world.start_service();
        copies.iter().for_each(|copy| copy.moved(world.address()));
        world.write(20);
        copies.iter().for_each(|copy| copy.assert_exact());
    }
}
