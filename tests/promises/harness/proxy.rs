//! Between a service and a `PostgreSQL` server: loses or delays messages of the protocol, and the connection with them.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use super::DEADLINE;

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    ToServer,
    ToService,
}

/// A message of a writer does not arrive, and its connection ends: after this many others this way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    pub(crate) way: Way,
    pub(crate) after: usize,
}

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    plan: Arc<Mutex<Plan>>,
}

/// What happens to the connections of writers.
#[derive(Default)]
struct Plan {
    /// The cuts that are still to come, one after the other.
    cuts: VecDeque<Cut>,
    delay: Delay,
    /// The sides of the services.
    writers: Vec<TcpStream>,
}

/// What happens to the next statement of a writer.
#[derive(Default)]
enum Delay {
    #[default]
    None,
    Wanted,
    Held(Held),
}

/// Messages that the server has not got yet.
struct Held {
    messages: Vec<Vec<u8>>,
    server: TcpStream,
    /// Something comes when the server has answered.
    answered: Receiver<()>,
}

/// What becomes of a message.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Arrives,
    IsLost,
    IsLate,
}

impl Proxy {
    /// It runs until the process ends.
    pub(crate) fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, plan) = (listener.local_addr().unwrap(), Arc::default());
        let proxy = Self { address, plan: Arc::clone(&plan) };
        std::thread::spawn(move || {
            for service in listener.incoming() {
                // The server may be away for a moment.
                let (Ok(service), Ok(server)) = (service, TcpStream::connect(server)) else { continue };
                let plan = Arc::clone(&plan);
                std::thread::spawn(move || carry(service, server, &plan));
            }
        });
        proxy
    }

    /// The database of a server, by way of this.
    pub(crate) fn url(&self, name: &str) -> String {
        format!("postgres://duality@{}/{name}?sslmode=disable&gssencmode=disable", self.address)
    }

    /// Cuts connections from now on, whichever is the first one that carries so many messages: the first cut, and then those
    /// after it.
    pub(crate) fn cut(&self, cuts: &[Cut]) {
        self.plan.lock().unwrap().cuts = cuts.iter().copied().collect();
    }

    /// Cuts nothing any more. Returns the number of cuts that were still to come.
    pub(crate) fn disarm(&self) -> usize {
        std::mem::take(&mut self.plan.lock().unwrap().cuts).len()
    }

    /// Keeps the next statement of a writer from the server, and ends its connection to the service.
    pub(crate) fn delay(&self) {
        self.plan.lock().unwrap().delay = Delay::Wanted;
    }

    /// Ends the connections of all writers.
    pub(crate) fn end_all(&self) {
        self.plan.lock().unwrap().writers.drain(..).for_each(|service| end(&service));
    }

    /// Whether a statement has been delayed.
    pub(crate) fn has_delayed(&self) -> bool {
        matches!(self.plan.lock().unwrap().delay, Delay::Held(_))
    }

    /// The server gets the statement that was delayed, and has answered it when this returns.
    #[track_caller]
    pub(crate) fn deliver(&self) {
        let delay = std::mem::take(&mut self.plan.lock().unwrap().delay);
        let Delay::Held(Held { messages, mut server, answered }) = delay else { panic!("no statement was delayed") };
        server.write_all(&messages.concat()).unwrap();
        answered.recv_timeout(DEADLINE).unwrap();
    }
}

impl Plan {
    fn fate(&mut self, this_way: Way) -> Fate {
        if this_way == Way::ToServer && matches!(self.delay, Delay::Wanted) {
            return Fate::IsLate;
        }
        match self.cuts.front_mut() {
            Some(Cut { way, after: 0 }) if *way == this_way => {
                self.cuts.pop_front();
                Fate::IsLost
            }
            Some(Cut { way, after }) if *way == this_way => {
                *after -= 1;
                Fate::Arrives
            }
            _ => Fate::Arrives,
        }
    }
}

/// Carries the messages of a connection both ways, until it ends.
fn carry(mut service: TcpStream, mut server: TcpStream, plan: &Arc<Mutex<Plan>>) {
    // Each message is sent on its own. Otherwise the second one would wait for the receipt of the first.
    [&service, &server].into_iter().for_each(|socket| socket.set_nodelay(true).unwrap());
    // The first message has no type: a length, and then what the session is for.
    let Some(first) = message(&mut service, 0) else { return };
    if server.write_all(&first).is_err() {
        return;
    }
    let writes = memchr::memmem::find(&first, b"duality write").is_some();
    let plan = writes.then(|| Arc::clone(plan));
    if let Some(plan) = &plan {
        plan.lock().unwrap().writers.push(service.try_clone().unwrap());
    }
    let (ends, answered) = channel();
    let (mut to_service, mut from_server) = (service.try_clone().unwrap(), server.try_clone().unwrap());
    let of_answers = plan.clone();
    std::thread::spawn(move || {
        pass(&mut from_server, &mut to_service, Way::ToService, of_answers.as_deref());
        [&from_server, &to_service].into_iter().for_each(end);
        let _ = ends.send(());
    });
    if let Some(late) = pass(&mut service, &mut server, Way::ToServer, plan.as_deref())
        && let Some(plan) = plan
    {
        // The server still has its connection.
        let messages = statement(late, &mut service);
        plan.lock().unwrap().delay = Delay::Held(Held { messages, server, answered });
    } else {
        end(&server);
    }
    end(&service);
}

fn end(socket: &TcpStream) {
    let _ = socket.shutdown(Shutdown::Both);
}

/// Carries messages one way until the end of the connection, or one that is late: that message.
fn pass(from: &mut TcpStream, to: &mut TcpStream, way: Way, plan: Option<&Mutex<Plan>>) -> Option<Vec<u8>> {
    while let Some(message) = message(from, 1) {
        match plan.map_or(Fate::Arrives, |plan| plan.lock().unwrap().fate(way)) {
            Fate::Arrives if to.write_all(&message).is_ok() => {}
            Fate::Arrives | Fate::IsLost => return None,
            Fate::IsLate => return Some(message),
        }
    }
    None
}

/// The messages of a statement, of which this is the first one: to the one that ends its transaction.
fn statement(first: Vec<u8>, from: &mut TcpStream) -> Vec<Vec<u8>> {
    let mut messages = vec![first];
    while messages.last().is_some_and(|last| last[0] != b'S')
        && let Some(next) = message(from, 1)
    {
        messages.push(next);
    }
    messages
}

/// The next message, whose length is after its type.
fn message(from: &mut TcpStream, type_bytes: usize) -> Option<Vec<u8>> {
    let mut message = vec![0; type_bytes + 4];
    from.read_exact(&mut message).ok()?;
    let length = u32::from_be_bytes(message[type_bytes..].try_into().unwrap());
    let head = message.len();
    message.resize(type_bytes + usize::try_from(length).unwrap(), 0);
    from.read_exact(&mut message[head..]).ok()?;
    Some(message)
}
