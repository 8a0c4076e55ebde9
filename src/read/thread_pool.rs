//! A fixed number of named threads for work that blocks.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::{fmt, io, mem, thread};

use crossbeam_channel::{Receiver, Sender, unbounded};
use tokio::sync::oneshot;

/// A handle to the threads, each of which has a state of type `S`. They end when they are stopped, or when the last handle
/// is dropped.
pub(super) struct ThreadPool<S> {
    queue: Sender<Task<S>>,
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

/// It breaks off the thread that does it.
type Task<S> = Box<dyn FnOnce(&mut S) -> ControlFlow<()> + Send>;

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
        let mut started = Vec::new();
        for number in 0..threads {
            let (state, tasks) = (state.clone(), tasks.clone());
            let thread = thread::Builder::new().name(format!("{name}-{number}"));
            started.push(thread.spawn(move || work(&mut state(), &tasks))?);
        }
        Ok(Self { queue, threads: Arc::new(Mutex::new(started)) })
    }

    /// Ends the threads after the tasks that are queued, and waits until their states are dropped.
    pub(super) fn stop(&self) {
        let threads = mem::take(&mut *self.threads.lock().expect("nobody panics while taking a list"));
        for _ in &threads {
            let _ = self.queue.send(Box::new(|_| ControlFlow::Break(())));
        }
        for thread in threads {
            let _ = thread.join();
        }
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

    /// Queues a task without a result.
    pub(super) fn post(&self, task: impl FnOnce(&mut S) + Send + 'static) {
        // Fails only after the last thread has ended, and threads outlive the handle.
        let _ = self.queue.send(Box::new(|state| {
            task(state);
            ControlFlow::Continue(())
        }));
    }
}

/// Does tasks until one breaks it off or the last handle is dropped. A panic ends its task only.
fn work<S>(state: &mut S, tasks: &Receiver<Task<S>>) {
    for task in tasks {
        match catch_unwind(AssertUnwindSafe(|| task(state))) {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(())) => return,
            Err(_) => log::error!("a task of a reading thread panicked"),
        }
    }
}

impl<S> Clone for ThreadPool<S> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), threads: Arc::clone(&self.threads) }
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
    fn a_pool_that_is_stopped_has_done_what_was_queued_and_dropped_its_states() {
        let (pool, done) = (ThreadPool::start("pool-test", 2, Arc::<()>::default).unwrap(), Arc::<()>::default());
        for _ in 0..10 {
            let done = Arc::clone(&done);
            pool.post(move |state| *state = done);
        }
        pool.stop();
        assert_eq!(Arc::strong_count(&done), 1);
        assert!(wait(pool.call(|_| ())).is_err(), "nobody does it any more");
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
