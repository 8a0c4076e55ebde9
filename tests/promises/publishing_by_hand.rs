//! Whatever is done to the streams of a broker by hand, and to the database: the streams become exact again, and so does every
//! copy that follows them.

use std::path::PathBuf;
use std::time::Duration;

use crate::harness::nats::{CHANGES, Consumer, Copy, JOURNAL, NatsServer, Saved, Writer, check, check_consumers};
use crate::harness::{App, Random, cases, output_of};

/// A service and its broker, of both of which there is a copy from earlier.
struct Operated {
    app: App,
    broker: NatsServer,
    writer: Writer,
    consumers: Vec<Consumer>,
    backup: PathBuf,
    saved: Saved,
}

/// What an operator does, or does not do in time.
#[derive(Debug, Clone, Copy)]
enum Deed {
    PurgesTheStreams,
    DeletesTheStreams,
    LeavesTheBrokerOffForLongerThanTheRetention,
    PutsBackTheBroker,
    PutsBackTheBrokerAfterTheRetention,
    PutsBackTheDatabase,
    PutsBackBoth,
}

const DEEDS: [Deed; 7] = [
    Deed::PurgesTheStreams,
    Deed::DeletesTheStreams,
    Deed::LeavesTheBrokerOffForLongerThanTheRetention,
    Deed::PutsBackTheBroker,
    Deed::PutsBackTheBrokerAfterTheRetention,
    Deed::PutsBackTheDatabase,
    Deed::PutsBackBoth,
];

impl Operated {
    fn start() -> Option<Self> {
        let mut broker = NatsServer::start()?;
        let app = App::with(|settings| {
            settings.publish = vec![broker.url().into()];
            settings.poll_interval = Duration::from_millis(50);
            settings.tombstone_retention = settings.retention;
        });
        let backup = app.database().with_file_name("backup.db");
        let mut writer = Writer::new(2);
        write(&app, &mut writer, 20);
        check(&broker, app.address);
        broker.stop();
        let saved = broker.save();
        broker.resume();
        let mut operated = Self { app, broker, writer, consumers: Vec::new(), backup, saved };
        operated.back_up();
        Some(operated)
    }

    fn write(&mut self, times: u32) {
        write(&self.app, &mut self.writer, times);
    }

    fn follow(&mut self) {
        let path = ["/aggregates", "/persons", "/carts", "/locations"][self.consumers.len() % 4];
        self.consumers.push(Consumer::start(path, self.app.address, self.broker.address, Copy::default()));
    }

    fn back_up(&mut self) {
        let (code, said) = output_of(self.app.database(), &["backup", "--force", self.backup.to_str().unwrap()]);
        assert_eq!(code, 0, "{said}");
    }

    fn restore(&mut self) {
        self.app.stop();
        let (code, said) = output_of(self.app.database(), &["restore", self.backup.to_str().unwrap()]);
        assert_eq!(code, 0, "{said}");
        self.app.resume();
        self.consumers.iter().for_each(|consumer| consumer.service_is_at(self.app.address));
    }

    /// The broker is away while much is written.
    fn without_broker(&mut self, work: impl FnOnce(&mut Self)) {
        self.broker.stop();
        self.write(5);
        work(self);
        self.broker.resume();
    }

    fn suffer(&mut self, deed: Deed) {
        match deed {
            Deed::PurgesTheStreams => [CHANGES, JOURNAL].iter().for_each(|stream| self.broker.purge(stream)),
            Deed::DeletesTheStreams => [CHANGES, JOURNAL].iter().for_each(|stream| self.broker.delete(stream)),
            Deed::LeavesTheBrokerOffForLongerThanTheRetention => {
                self.without_broker(|operated| operated.app.prune_everything());
            }
            Deed::PutsBackTheBroker => self.without_broker(|operated| operated.broker.put_back(&operated.saved)),
            Deed::PutsBackTheBrokerAfterTheRetention => self.without_broker(|operated| {
                operated.app.prune_everything();
                operated.broker.put_back(&operated.saved);
            }),
            Deed::PutsBackTheDatabase => self.restore(),
            Deed::PutsBackBoth => self.without_broker(|operated| {
                operated.broker.put_back(&operated.saved);
                operated.restore();
            }),
        }
    }
}

fn write(app: &App, writer: &mut Writer, times: u32) {
    let mut client = app.client();
    for _ in 0..times {
        writer.write(&mut client).unwrap();
    }
}

#[test]
fn the_streams_and_their_consumers_are_exact_after_whatever_an_operator_does() {
    let Some(mut operated) = Operated::start() else { return };
    let mut random = Random::new(3);
    for round in 0..usize::try_from(cases(70)).unwrap() {
        let deed = *DEEDS.get(round).unwrap_or_else(|| random.one_of(&DEEDS));
        operated.write(u32::try_from(random.below(20)).unwrap());
        if round < 4 {
            operated.follow();
        }
        operated.suffer(deed);
        operated.write(u32::try_from(random.below(20)).unwrap());
        check(&operated.broker, operated.app.address);
        check_consumers(&operated.consumers, operated.app.address);
    }
}
