//! Answers whoever connects while a start takes long. It has a thread of its own, because a start blocks the one that it is on,
//! and leaves the listeners to the service when that begins to serve.

use std::net::TcpListener;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use actix_web::rt::net::TcpStream;
use actix_web::rt::{spawn, time};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Semaphore, oneshot};

use crate::http::starting::answer;

/// A start that is over by then keeps those who connect waiting, so that they notice nothing of it.
const GRACE: Duration = Duration::from_secs(1);

/// The connections that are answered at a time. Others wait until the kernel hands them over.
const AT_ONCE: usize = 64;

/// How long a connection may take, and how many bytes the head of its request.
const PATIENCE: Duration = Duration::from_secs(2);
const MAX_HEAD: usize = 8 * 1024;

/// How long no connection is accepted after an error: the process may have no descriptors left.
const AFTER_ERROR: Duration = Duration::from_millis(100);

/// A listener, and what is done with those who connect.
pub(super) struct Door {
    pub(super) listener: TcpListener,
    pub(super) manner: Manner,
}

/// What is done with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// It gets an answer.
    Answer,
    /// It expects a handshake, and the certificate is not read yet: it is closed.
    Close,
}

/// The thread that answers.
pub(super) struct WaitingRoom {
    _opening: mpsc::Sender<()>,
    _answering: oneshot::Sender<()>,
    left: mpsc::Receiver<()>,
}

impl WaitingRoom {
    /// Begins to answer after a while.
    ///
    /// # Errors
    /// The operating system does not start a thread.
    pub(super) fn open(doors: Vec<Door>) -> std::io::Result<Self> {
        let (opening, opened) = mpsc::channel();
        let (answering, over) = oneshot::channel();
        let (leaving, left) = mpsc::channel();
        std::thread::Builder::new().name("duality-waiting".to_owned()).spawn(move || {
            if opened.recv_timeout(GRACE) == Err(mpsc::RecvTimeoutError::Timeout) {
                actix::System::new().block_on(answer_all(doors, over, leaving));
            }
        })?;
        Ok(Self { _opening: opening, _answering: answering, left })
    }

    /// Accepts no more connections. Those that it has are answered.
    pub(super) fn close(self) {
        let Self { _opening: opening, _answering: answering, left } = self;
        drop((opening, answering));
        // It sends nothing: its end says that the listeners are free.
        let _ = left.recv();
    }
}

/// Answers until the service begins to serve, and what has been accepted until then.
async fn answer_all(doors: Vec<Door>, over: oneshot::Receiver<()>, leaving: mpsc::Sender<()>) {
    log::info!("the start takes long: until it is over, requests are answered with 503");
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let doors: Vec<_> = doors.into_iter().map(|door| spawn(accept(door, Arc::clone(&places)))).collect();
    // Its sender is dropped.
    let _ = over.await;
    for door in doors {
        door.abort();
        let _ = door.await;
    }
    drop(leaving);
    let all = u32::try_from(AT_ONCE).expect("a small number");
    let _ = time::timeout(PATIENCE, places.acquire_many(all)).await;
}

async fn accept(Door { listener, manner }: Door, places: Arc<Semaphore>) {
    let listener = listener.set_nonblocking(true).and_then(|()| actix_web::rt::net::TcpListener::from_std(listener));
    let Ok(listener) = listener.inspect_err(|error| log::warn!("nobody is answered during the start: {error}")) else {
        return;
    };
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((connection, _)) if manner == Manner::Answer => {
                spawn(async move {
                    // Whoever is slower, or has left, gets nothing.
                    let _ = time::timeout(PATIENCE, answer_one(connection)).await;
                    drop(place);
                });
            }
            Ok(_) => {}
            Err(_) => time::sleep(AFTER_ERROR).await,
        }
    }
}

async fn answer_one(mut connection: TcpStream) -> std::io::Result<()> {
    let mut head = Vec::new();
    // The first line is enough, so a longer head is as good.
    while !has_end(&head) && head.len() < MAX_HEAD {
        if connection.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let Some(answer) = answer(&head) else { return Ok(()) };
    connection.write_all(answer.as_bytes()).await?;
    connection.shutdown().await?;
    // What it still sends, such as a body, would otherwise have the answer lost on its way.
    let mut rest = [0; 1024];
    while connection.read(&mut rest).await? > 0 {}
    Ok(())
}

fn has_end(head: &[u8]) -> bool {
    head.windows(4).any(|end| end == b"\r\n\r\n")
}
