//! The answers to the commands of one worker thread, on their way back to it.

use actix_web::rt::spawn;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

/// Somebody who waits for an answer, and the answer.
type Reply<T> = (oneshot::Sender<T>, T);

/// Where the answers of one worker thread arrive: all of a batch at once.
///
/// To wake a thread costs the one that does it a system call, and has the other begin before there is more for it to do:
/// a wake-up for each command took a tenth of the aggregator's time. Bounded by who waits: nobody has two answers.
pub(crate) struct ReplyQueue<T>(UnboundedSender<Vec<Reply<T>>>);

impl<T: 'static> ReplyQueue<T> {
    /// For the thread that calls this.
    pub(crate) fn here() -> Self {
        let (sender, mut arriving) = unbounded_channel::<Vec<Reply<T>>>();
        spawn(async move {
            while let Some(batch) = arriving.recv().await {
                for (reply_to, answer) in batch {
                    // A client that has gone does not undo its command.
                    drop(reply_to.send(answer));
                }
            }
        });
        Self(sender)
    }
}

impl<T> Clone for ReplyQueue<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// The answers of a batch, sorted by where they go.
pub(crate) struct ReplyBatch<T>(Vec<(ReplyQueue<T>, Vec<Reply<T>>)>);

impl<T> ReplyBatch<T> {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds an answer, or gives it at once if it has no such place. There are as many places as worker threads: few.
    pub(crate) fn add(&mut self, to: Option<&ReplyQueue<T>>, reply_to: oneshot::Sender<T>, answer: T) {
        let Some(to) = to else { return drop(reply_to.send(answer)) };
        match self.0.iter_mut().find(|(place, _)| place.0.same_channel(&to.0)) {
            Some((_, answers)) => answers.push((reply_to, answer)),
            None => self.0.push((to.clone(), vec![(reply_to, answer)])),
        }
    }

    /// Wakes each of the threads once.
    pub(crate) fn send(self) {
        for (place, answers) in self.0 {
            // A thread that is gone has nobody who waits.
            drop(place.0.send(answers));
        }
    }
}
