//! A fixed number of named threads for work that blocks.

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fmt, io, thread};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use tokio::sync::oneshot;

/// A handle to the threads, each of which has a state of type `S`. They end when the last handle is dropped.
pub(super) struct ThreadPool<S> {
    queue: Sender<Task<S>>,
    threads: usize,
    is_stopping: Arc<AtomicBool>,
    /// Disconnected when the last thread has ended.
    ended: Receiver<Infallible>,
}

type Task<S> = Box<dyn FnOnce(&mut S) + Send>;

/// Too many tasks wait already.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PoolBusy;

/// A task has no result: the threads have ended, or the task has panicked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PoolStopped;

impl<S: 'static> ThreadPool<S> {
    /// Starts `threads` threads named `name-0`, `name-1` and so on.
    ///
    /// # Errors
    /// The operating system does not start a thread.
    pub(super) fn start(
        name: &str,
        threads: usize,
        state: impl Fn() -> S + Clone + Send + 'static,
    ) -> io::Result<Self> {
        let (queue, tasks) = unbounded();
        let (running, ended) = crossbeam_channel::bounded::<Infallible>(0);
        let is_stopping = Arc::new(AtomicBool::new(false));
        for number in 0..threads {
            let (state, tasks, running) = (state.clone(), tasks.clone(), running.clone());
            let is_stopping = Arc::clone(&is_stopping);
            thread::Builder::new().name(format!("{name}-{number}")).spawn(move || {
                work(&mut state(), &tasks, &is_stopping);
                drop(running);
            })?;
        }
        Ok(Self { queue, threads, is_stopping, ended })
    }

    /// Ends the threads, whoever still has a handle, and waits until they have dropped their states. Tasks that have not
    /// begun are skipped. Returns whether all threads have ended in this time.
    pub(super) fn stop(&self, patience: Duration) -> bool {
        self.is_stopping.store(true, Ordering::Release);
        (0..self.threads).for_each(|_| self.post(|_| ()));
        self.ended.recv_timeout(patience) == Err(RecvTimeoutError::Disconnected)
    }

    /// Queues a task at once, and returns its result when a thread has done it. A task that nobody waits for any more
    /// when its turn comes is skipped.
    pub(super) fn call<T, F>(&self, task: F) -> impl Future<Output = Result<T, PoolStopped>> + use<S, T, F>
    where
        T: Send + 'static,
        F: FnOnce(&mut S) -> T + Send + 'static,
    {
        let (reply, result) = oneshot::channel();
        self.post(move |state| {
            if !reply.is_closed() {
                // The caller may have gone while the task ran.
                let _ = reply.send(task(state));
            }
        });
        async move { result.await.map_err(|_| PoolStopped) }
    }

    /// The number of tasks that no thread has begun.
    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Queues a task without a result.
    pub(super) fn post(&self, task: impl FnOnce(&mut S) + Send + 'static) {
        // Fails only after the last thread has ended, and threads outlive the handle.
        let _ = self.queue.send(Box::new(task));
    }
}

/// Does tasks until the last handle is dropped, or the pool is stopped. A panic ends its task only.
fn work<S>(state: &mut S, tasks: &Receiver<Task<S>>, is_stopping: &AtomicBool) {
    for task in tasks {
        if is_stopping.load(Ordering::Acquire) {
            return;
        }
        if catch_unwind(AssertUnwindSafe(|| task(state))).is_err() {
            log::error!("a task of a reading thread panicked");
        }
    }
}

impl<S> Clone for ThreadPool<S> {
    fn clone(&self) -> Self {
        Self {
            queue: self.queue.clone(),
            threads: self.threads,
            is_stopping: Arc::clone(&self.is_stopping),
            ended: self.ended.clone(),
        }
    }
}

impl fmt::Display for PoolStopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the reading threads have stopped")
    }
}

impl std::error::Error for PoolStopped {}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait<T>(future: impl Future<Output = T>) -> T {
        actix_web::rt::System::new().block_on(future)
    }

    #[test]
    fn the_threads_have_names_and_a_panic_ends_its_task_only() {
        let pool = ThreadPool::start("pool-test", 1, || 0).unwrap();
        let count = || {
            pool.call(|state: &mut i32| {
                *state += 1;
                (*state, thread::current().name().map(str::to_owned))
            })
        };
        assert_eq!(wait(count()).unwrap(), (1, Some("pool-test-0".to_owned())));
        assert!(wait(pool.call(|_| -> i32 { panic!("on purpose") })).is_err());
        assert_eq!(wait(count()).unwrap().0, 2);
    }

    #[test]
    fn a_stopped_pool_has_dropped_the_states_of_its_threads_and_skips_what_waits() {
        let state = Arc::new(());
        let shared = Arc::clone(&state);
        let pool = ThreadPool::start("pool-test", 2, move || Arc::clone(&shared)).unwrap();
        assert!(wait(pool.call(|_| ())).is_ok());
        let other = pool.clone();
        assert!(pool.stop(Duration::from_secs(20)));
        assert!(wait(other.call(|_| ())).is_err());
        drop((pool, other));
        assert_eq!(Arc::strong_count(&state), 1);
    }

    #[test]
    fn a_task_that_nobody_waits_for_is_skipped() {
        let pool = ThreadPool::start("pool-test", 1, || 0).unwrap();
        let (go, gate) = std::sync::mpsc::channel::<()>();
        pool.post(move |_| gate.recv().unwrap());
        drop(pool.call(|state| *state += 1));
        let count = pool.call(|state| *state);
        go.send(()).unwrap();
        assert_eq!(wait(count).unwrap(), 0);
    }
}
