//! The limits that are separate programs: how fast a server could be on this machine if it did no work.

use std::cell::RefCell;
use std::io::Write as _;
use std::rc::Rc;

use actix_web::web::{self, Bytes};
use actix_web::{App, HttpResponse, HttpServer};
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Events in one write of the flood: about as many as a service under load has in each flush.
pub const FLOOD: usize = 64;

/// Runs the requested limit until it is killed.
pub fn run(arguments: &[String]) {
    match arguments[0].as_str() {
        "handler" => actix_web::rt::System::new().block_on(handler()),
        "body" => actix_web::rt::System::new().block_on(body(arguments[1].parse().unwrap())),
        "spin" => loop {
            std::hint::spin_loop();
        },
        "stream" => actix_web::rt::System::new().block_on(stream()),
        "sockets" => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            tokio::task::LocalSet::new().block_on(&runtime, sockets());
        }
        other => panic!("no limit {other}"),
    }
}

fn listening(address: std::net::SocketAddr) {
    let mut output = std::io::stdout();
    writeln!(output, "listening on {address}").unwrap();
    output.flush().unwrap();
}

#[derive(Deserialize)]
struct Person {
    name: String,
    city: Option<String>,
    spouse: Option<u64>,
}

/// Reads the body of a new person, and responds immediately.
async fn handler() {
    async fn create(body: Bytes) -> HttpResponse {
        let person: Person = serde_json::from_slice(&body).unwrap();
        let is_valid = !person.name.is_empty() && person.city.as_deref() != Some("") && person.spouse != Some(0);
        if is_valid { HttpResponse::Created().finish() } else { HttpResponse::BadRequest().finish() }
    }
    let server = HttpServer::new(|| App::new().route("/persons", web::post().to(create)));
    let server = server.tcp_nodelay(true).bind("127.0.0.1:0").unwrap();
    listening(server.addrs()[0]);
    server.run().await.unwrap();
}

/// Serves one shared body of this length.
async fn body(length: usize) {
    let body = Bytes::from(vec![b'x'; length]);
    let server = HttpServer::new(move || {
        let body = body.clone();
        App::new().route("/persons", web::get().to(move || std::future::ready(HttpResponse::Ok().body(body.clone()))))
    });
    let server = server.tcp_nodelay(true).bind("127.0.0.1:0").unwrap();
    listening(server.addrs()[0]);
    server.run().await.unwrap();
}

/// Starts a response that never continues.
async fn stream() {
    async fn endless() -> HttpResponse {
        let first = futures_core_stream::Once(Some(Bytes::from_static(b":\n")));
        HttpResponse::Ok().content_type("text/event-stream").streaming(first)
    }
    let server = HttpServer::new(|| App::new().route("/person-events", web::get().to(endless)));
    let server = server.tcp_nodelay(true).max_connections(100_000).bind("127.0.0.1:0").unwrap();
    listening(server.addrs()[0]);
    server.run().await.unwrap();
}

mod futures_core_stream {
    //! A stream with one item and no end.

    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use actix_web::web::Bytes;
    use futures_core::Stream;

    pub struct Once(pub Option<Bytes>);

    impl Stream for Once {
        type Item = Result<Bytes, Infallible>;

        fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            self.0.take().map_or(Poll::Pending, |bytes| Poll::Ready(Some(Ok(bytes))))
        }
    }
}

/// Writes prepared events to all subscribed sockets. A `T` from a control connection writes one event to each; an `F`
/// writes [`FLOOD`] at a time to each, repeatedly, for as long as the control connection is open.
async fn sockets() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listening(listener.local_addr().unwrap());
    let subscribers: Rc<RefCell<Vec<Rc<TcpStream>>>> = Rc::default();
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut first = [0; 1];
        stream.read_exact(&mut first).await.unwrap();
        let subscribers = Rc::clone(&subscribers);
        match first[0] {
            b'G' => {
                let mut rest = [0; 1024];
                let _ = stream.read(&mut rest).await.unwrap();
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                subscribers.borrow_mut().push(Rc::new(stream));
            }
            b'T' => drop(tokio::task::spawn_local(triggered(stream, subscribers))),
            _ => drop(tokio::task::spawn_local(flood(stream, subscribers))),
        }
    }
}

fn event(number: i64) -> String {
    format!("data: {{\"{number}\":{{\"name\":\"Ann\"}}}}\nid: 4f9c21aa.{number}\n\n")
}

async fn triggered(mut control: TcpStream, subscribers: Rc<RefCell<Vec<Rc<TcpStream>>>>) {
    for number in 1.. {
        let frame = event(number);
        for subscriber in subscribers.borrow().iter() {
            assert_eq!(subscriber.try_write(frame.as_bytes()).unwrap(), frame.len());
        }
        control.write_all(b"!").await.unwrap();
        if control.read_exact(&mut [0; 1]).await.is_err() {
            return;
        }
    }
}

async fn flood(control: TcpStream, subscribers: Rc<RefCell<Vec<Rc<TcpStream>>>>) {
    let mut number = 0;
    loop {
        let frames: String = (0..FLOOD)
            .map(|_| {
                number += 1;
                event(number)
            })
            .collect();
        let all = subscribers.borrow().clone();
        for subscriber in all {
            // A partial write corrupts the events of that socket, but only received bytes count.
            let mut rest = frames.as_bytes();
            while !rest.is_empty() {
                match subscriber.try_write(rest) {
                    Ok(written) => rest = &rest[written..],
                    Err(_) => drop(subscriber.writable().await),
                }
            }
        }
        tokio::task::yield_now().await;
        if control.try_read(&mut [0; 1]).is_ok() {
            return;
        }
    }
}
