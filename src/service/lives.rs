//! The lives of a service in one process: where its record on a server was moved, the next one goes on, on the same listeners.
//!
//! A life ends in order, with its streams, so that clients come back and are judged by the epochs that the record has. Between
//! two lives, whoever connects waits.

use std::pin::pin;
use std::time::Duration;

use actix_web::rt;

use crate::domain::error_chain::ErrorChain;
use crate::service::listeners::Listeners;
use crate::service::program::{Beginning, Program};
use crate::service::progress::StartProgress;
use crate::service::running::{Running, StartError};
use crate::service::settings::Settings;
use crate::service::signals::{Hangup, Request, Signals};
use crate::service::watchdog::Watchdog;
use crate::storage::database::LastLife;

/// How long an attempt to start again waits for the next one: at first, and at most.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(2)];

/// How long a life may take to end.
const STOP: Duration = Duration::from_secs(15);

/// The same where the server may be one that does not answer: a connection to it is given up after some seconds.
const STOP_OF_MOVED: Duration = Duration::from_secs(60);

/// Why a life ends.
enum End {
    /// A signal asks for it.
    Asked(&'static str),
    /// The database file is another one.
    Replaced,
    /// The record on a server is in another place, or in another epoch.
    Moved,
}

/// Runs a service until a signal asks it to stop.
///
/// # Errors
/// It cannot start, cannot stop in order, or its database file was replaced.
pub(super) async fn live(program: Program, settings: Settings) -> Result<(), StartError> {
    settings.check()?;
    let mut signals = Signals::new(hangup(&settings)).map_err(StartError::Signal)?;
    let listeners = Listeners::bind(&settings)?;
    let observer = &StartProgress::new();
    let beginning = Beginning { observer, last_life: None };
    let mut running = program.start(settings.clone(), listeners.again()?, beginning).await?;
    loop {
        let patience = match end_of(&running, &mut signals, settings.heartbeat).await {
            End::Asked(signal) => {
                log::info!("{signal}: stopping");
                STOP
            }
            End::Replaced => {
                log::info!("the database file was replaced: stopping");
                STOP
            }
            End::Moved => {
                log::warn!("the record was moved: the service starts again in this process");
                let last_life = running.last_life();
                stop_moved(running).await;
                let next = Next { program: &program, settings: &settings, listeners: &listeners, last_life };
                match next.begin(&mut signals).await? {
                    Begun::Running(next) => running = *next,
                    Begun::Asked(signal) => {
                        log::info!("{signal}: stopped");
                        return Ok(());
                    }
                }
                continue;
            }
        };
        let _watchdog = Watchdog::start(patience);
        return Ok(running.stop().await?);
    }
}

/// Waits for the end of a life, and does what other signals ask for meanwhile.
async fn end_of(running: &Running, signals: &mut Signals, heartbeat: Duration) -> End {
    let mut replaced = pin!(async {
        running.replaced().await;
        if running.may_move() {
            return End::Moved;
        }
        // Until then, clients and load balancers are answered why.
        rt::time::sleep(heartbeat).await;
        End::Replaced
    });
    loop {
        tokio::select! {
            request = signals.next() => match request {
                Request::Stop(name) => return End::Asked(name),
                Request::Reload => running.reload(),
            },
            end = &mut replaced => return end,
        }
    }
}

/// Ends a life whose record was moved. It says so itself, as an error.
async fn stop_moved(running: Running) {
    let _watchdog = Watchdog::start(STOP_OF_MOVED);
    if let Err(error) = running.stop().await {
        log::debug!("{}", ErrorChain(&error));
    }
}

/// A life that is to begin.
struct Next<'a> {
    program: &'a Program,
    settings: &'a Settings,
    listeners: &'a Listeners,
    last_life: LastLife,
}

/// What became of it.
enum Begun {
    Running(Box<Running>),
    /// A signal asked the process to stop meanwhile.
    Asked(&'static str),
}

impl Next<'_> {
    /// Tries to begin until it succeeds, while what prevents it may pass.
    async fn begin(self, signals: &mut Signals) -> Result<Begun, StartError> {
        let [mut pause, longest] = PAUSES;
        let mut told = String::new();
        loop {
            let beginning = Beginning { observer: &StartProgress::new(), last_life: Some(self.last_life.clone()) };
            let started = self.program.start(self.settings.clone(), self.listeners.again()?, beginning).await;
            let error = match started {
                Ok(running) => return Ok(Begun::Running(Box::new(running))),
                Err(StartError::Store(error)) if error.may_pass() => error,
                Err(error) => return Err(error),
            };
            let reason = ErrorChain(&error).to_string();
            if reason != told {
                log::warn!("cannot start again yet: {reason}");
                told = reason;
            }
            let asked = async {
                loop {
                    if let Request::Stop(name) = signals.next().await {
                        return name;
                    }
                }
            };
            if let Ok(signal) = rt::time::timeout(jittered(pause), asked).await {
                return Ok(Begun::Asked(signal));
            }
            pause = longest.min(pause * 2);
        }
    }
}

/// Between a half and the whole of a pause, so that services that lost one server do not all come back in the same moment.
fn jittered(pause: Duration) -> Duration {
    let mut random = [0_u8];
    // Without random numbers, it is the whole.
    let part = getrandom::fill(&mut random).map_or(u8::MAX, |()| random[0]);
    pause / 2 + pause * u32::from(part) / 2 / u32::from(u8::MAX)
}

/// What SIGHUP asks a service with these settings for.
fn hangup(settings: &Settings) -> Hangup {
    if settings.tokens.is_some() || settings.tls_cert.is_some() { Hangup::Reloads } else { Hangup::Stops }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_between_a_half_and_the_whole() {
        let pause = Duration::from_millis(100);
        for _ in 0..100 {
            assert!((pause / 2..=pause).contains(&jittered(pause)));
        }
    }
}
