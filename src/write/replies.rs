//! The replies to the commands of one worker thread, on their way back to that thread.

use actix_web::rt::spawn;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

/// A reply, and the request that waits for it.
struct Reply<T> {
    reply_to: oneshot::Sender<T>,
    answer: T,
}

/// The queue of one worker thread. All replies of a batch arrive at once.
///
/// Waking a thread costs the aggregator a system call, and the thread would start before the other replies are there: one
/// wake-up per command took a tenth of the aggregator's time. The queue is bounded by the number of waiting requests,
/// because each gets one reply.
pub(crate) struct ReplyQueue<T>(UnboundedSender<Vec<Reply<T>>>);

impl<T: 'static> ReplyQueue<T> {
    /// Creates the queue of the current thread.
    pub(crate) fn here() -> Self {
        let (sender, mut arriving) = unbounded_channel::<Vec<Reply<T>>>();
        spawn(async move {
            while let Some(batch) = arriving.recv().await {
                for Reply { reply_to, answer } in batch {
                    // The client may have disconnected; its command is committed nevertheless.
                    let _ = reply_to.send(answer);
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

/// The replies of a batch, grouped by their queues.
pub(super) struct ReplyBatch<T>(Vec<(ReplyQueue<T>, Vec<Reply<T>>)>);

impl<T> ReplyBatch<T> {
    pub(super) fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a reply. Without a queue, it is sent immediately. There are as many queues as worker threads, so a linear
    /// search is fast.
    pub(super) fn add(&mut self, queue: Option<&ReplyQueue<T>>, reply_to: oneshot::Sender<T>, answer: T) {
        let Some(queue) = queue else {
            let _ = reply_to.send(answer);
            return;
        };
        let reply = Reply { reply_to, answer };
        match self.0.iter_mut().find(|(known, _)| known.0.same_channel(&queue.0)) {
            Some((_, replies)) => replies.push(reply),
            None => self.0.push((queue.clone(), vec![reply])),
        }
    }

    /// Sends all replies, with one wake-up per thread.
    pub(super) fn send(self) {
        for (queue, replies) in self.0 {
            // If the thread has stopped, no request waits there.
            let _ = queue.0.send(replies);
        }
    }
}
