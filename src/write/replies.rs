//! The answers to the commands of one worker thread, on their way back to it.

use actix_web::rt::spawn;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

/// Somebody who waits for an answer, and the answer.
type Answered<T> = (oneshot::Sender<T>, T);

/// Where the answers of one worker thread arrive: all of a batch at once.
///
/// To wake a thread costs the one that does it a system call, and has the other begin before there is more for it to do:
/// a wake-up for each command took a tenth of the aggregator's time. Bounded by who waits: nobody has two answers.
pub(crate) struct Answers<T>(UnboundedSender<Vec<Answered<T>>>);

impl<T: 'static> Answers<T> {
    /// For the thread that calls this.
    pub(crate) fn here() -> Self {
        let (sender, mut arriving) = unbounded_channel::<Vec<Answered<T>>>();
        spawn(async move {
            while let Some(batch) = arriving.recv().await {
                for (waiting, answer) in batch {
                    // A client that has gone does not undo its command.
                    drop(waiting.send(answer));
                }
            }
        });
        Self(sender)
    }
}

impl<T> Clone for Answers<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// The answers of a batch, sorted by where they go.
pub(crate) struct Sorted<T>(Vec<(Answers<T>, Vec<Answered<T>>)>);

impl<T> Sorted<T> {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds an answer, or gives it at once if it has no such place. There are as many places as worker threads: few.
    pub(crate) fn add(&mut self, to: Option<&Answers<T>>, waiting: oneshot::Sender<T>, answer: T) {
        let Some(to) = to else { return drop(waiting.send(answer)) };
        match self.0.iter_mut().find(|(place, _)| place.0.same_channel(&to.0)) {
            Some((_, answers)) => answers.push((waiting, answer)),
            None => self.0.push((to.clone(), vec![(waiting, answer)])),
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
