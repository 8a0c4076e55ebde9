//! What the program does instead of serving: it asks the service that runs on the database, or works on the files itself.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::domain::clock::Clock;
use crate::domain::collection::Registry;
use crate::projector::registry::ProjectionSet;
use crate::projector::runner::ProjectionRunner;
use crate::projector::status::{Mode, Status};
use crate::read_model::error::ProjectionError;
use crate::read_model::spec::ProjectionSpec;
use crate::service::settings::{ProjectionTask, Settings, Task};
use crate::storage::connection::Database;
use crate::storage::error::StoreError;
use crate::storage::page::Progress;
use crate::storage::verify::verify;
use crate::storage::writer::{EpochMode, Writer};

/// Everything that can go wrong here is told in one line.
type Told<T> = Result<T, ProjectionError>;

/// Does the task, tells what came of it, and gives the exit code.
pub(crate) fn run(task: &Task, settings: &Settings, registry: Registry, projections: ProjectionSet) -> ExitCode {
    let outcome = match task {
        Task::Verify => verified(settings, registry),
        Task::Projection { task } => match Database::lock(&settings.database) {
            Ok(database) => {
                Offline::open(settings, database, registry, projections).and_then(|mut here| here.run(task))
            }
            Err(error) => match Database::running_service_address(&settings.database) {
                Some(service) => asked(task, service),
                None => Err(error.into()),
            },
        },
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            log::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// A line for who asked. Nobody is told anything where nobody listens.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn verified(settings: &Settings, registry: Registry) -> Told<bool> {
    let found = verify(&settings.database, &Arc::new(registry))?;
    found.iter().for_each(|found| say(&found.to_string()));
    Ok(found.iter().all(|found| found.differing() == 0))
}

/// `cart_items  version 1  live  0 events, 0 s behind`
fn line(told: &Value) -> String {
    let text = |member: &str| told[member].as_str().unwrap_or("").to_owned();
    let lag = (told["lag"]["events"].as_i64().unwrap_or(0), told["lag"]["seconds"].as_i64().unwrap_or(0));
    let mut line = format!(
        "{:<20} version {:<3} {:<10} {:<8} {} events, {} s behind",
        text("name"),
        told["version"],
        text("mode"),
        text("state"),
        lag.0,
        lag.1
    );
    if let Some(building) = told.get("building") {
        line.push_str(&format!("; {}", progress(building)));
    }
    if let Some(error) = told.get("error") {
        line.push_str(&format!("; stopped at {}: {}", error["at"], error["message"].as_str().unwrap_or_default()));
    }
    line
}

/// `[#####-----]  50%  100000/200000  350000/s  0.3 s left`
fn progress(building: &Value) -> String {
    let number = |member: &str| building[member].as_f64().unwrap_or(0.0);
    let part = if number("total") > 0.0 { (number("done") / number("total")).clamp(0.0, 1.0) } else { 1.0 };
    let done = (1..=20).filter(|step| f64::from(*step) <= part * 20.0).count();
    format!(
        "[{}{}] {:3.0}%  {}/{}  {}/s  {} s left",
        "#".repeat(done),
        "-".repeat(20 - done),
        part * 100.0,
        building["done"],
        building["total"],
        number("events_per_second"),
        building["seconds_left"].as_f64().map_or_else(|| "?".to_owned(), |left| left.to_string()),
    )
}

/// The last line, in the place of the progress.
fn say_last(told: &Value) {
    if std::io::stdout().is_terminal() {
        let _ = write!(std::io::stdout(), "\r\x1b[K");
    }
    say(&line(told));
}

/// Shows how far it is, over and over on a terminal, else a line each time.
fn show(building: &Value) {
    let mut terminal = std::io::stdout();
    let (before, after) = if terminal.is_terminal() { ("\r", "\x1b[K") } else { ("", "\n") };
    let _ = write!(terminal, "{before}{}{after}", progress(building));
    let _ = terminal.flush();
}

/// Whether what is being built does not go on. What is wrong with the generation that is read may be why it is built.
fn is_stuck(told: &Value) -> bool {
    let of = |member: &str| told[member]["generation"].as_i64();
    told["state"] == "failing" && (of("error").is_none() || of("error") == of("building"))
}

/// Asks the service that runs.
fn asked(task: &ProjectionTask, service: SocketAddr) -> Told<bool> {
    match task {
        ProjectionTask::List => {
            let told = ask(service, "GET", "/projections", None)?;
            told["projections"].as_array().into_iter().flatten().for_each(|told| say(&line(told)));
            Ok(true)
        }
        ProjectionTask::Rebuild { name } => {
            let path = format!("/projections/{name}");
            let mut told = ask(service, "POST", &format!("{path}/rebuild"), None)?;
            while let Some(building) = told.get("building") {
                show(building);
                if is_stuck(&told) {
                    say_last(&told);
                    return Ok(false);
                }
                std::thread::sleep(Duration::from_millis(200));
                told = ask(service, "GET", &path, None)?;
            }
            say_last(&told);
            Ok(told["state"] == "live")
        }
        ProjectionTask::Skip { name, at } => {
            let told = ask(service, "POST", &format!("/projections/{name}/skip"), Some(&json!({ "at": at })))?;
            say(&line(&told));
            Ok(true)
        }
    }
}

/// One request to the service, which closes the connection after its answer.
fn ask(service: SocketAddr, method: &str, path: &str, body: Option<&Value>) -> Told<Value> {
    let mut connection = TcpStream::connect(service)?;
    let body = body.map(Value::to_string).unwrap_or_default();
    let head = format!("{method} {path} HTTP/1.0\r\nHost: {service}\r\nContent-Type: application/json\r\n");
    write!(connection, "{head}Accept: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    let (head, body) =
        answer.split_once("\r\n\r\n").ok_or_else(|| ProjectionError::new("the service gave no answer"))?;
    let told: Value = serde_json::from_str(body)?;
    if head.split(' ').nth(1).is_some_and(|status| status.starts_with('2')) {
        return Ok(told);
    }
    Err(ProjectionError::new(told["detail"].as_str().unwrap_or(head)))
}

/// The address of a service, as it can be reached from here.
pub(crate) fn reachable(address: SocketAddr) -> SocketAddr {
    let loopback: IpAddr = if address.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() };
    if address.ip().is_unspecified() { SocketAddr::new(loopback, address.port()) } else { address }
}

/// The files, while no service runs.
struct Offline {
    database: Arc<Database>,
    clock: Arc<Clock>,
    writer: Writer,
    inline: Arc<[ProjectionSpec]>,
    background: Vec<ProjectionRunner>,
}

impl Offline {
    fn open(settings: &Settings, database: Database, registry: Registry, projections: ProjectionSet) -> Told<Self> {
        if !settings.database.exists() {
            return Err(StoreError::Open(format!("there is no database {}", settings.database.display())).into());
        }
        let (database, registry, clock) = (Arc::new(database), Arc::new(registry), Arc::new(Clock::default()));
        let context = projections.context(&database, &registry, &clock)?;
        let inline: Arc<[ProjectionSpec]> = projections.inline.into();
        let (ours, theirs) = (Arc::clone(&registry), Arc::clone(&inline));
        let writer = Writer::open(&database, ours, theirs, clock.now(), EpochMode::Keep)?;
        let mut background = Vec::new();
        for spec in projections.background {
            let status = Status::new(spec.name, spec.version, Mode::Background);
            background.push(ProjectionRunner::new(context.clone(), spec, status));
        }
        Ok(Self { database, clock, writer, inline, background })
    }

    fn run(&mut self, task: &ProjectionTask) -> Told<bool> {
        let outcome = match task {
            ProjectionTask::List => self.list(),
            ProjectionTask::Rebuild { name } => self.rebuild(name),
            ProjectionTask::Skip { .. } => {
                Err(ProjectionError::new("no service runs that could have stopped at an event"))
            }
        };
        self.database.release();
        outcome
    }

    fn list(&mut self) -> Told<bool> {
        for projection in self.inline.iter() {
            let status = Status::new(projection.name, projection.version, Mode::Inline);
            say(&line(&status.to_json(self.clock.now())));
        }
        for runner in &mut self.background {
            runner.look()?;
            say(&line(&runner.status().to_json(self.clock.now())));
        }
        Ok(true)
    }

    fn rebuild(&mut self, name: &str) -> Told<bool> {
        if self.inline.iter().any(|projection| projection.name == name) {
            self.writer.rebuild(name, self.clock.now())?;
            say(&format!("{name} was built anew"));
            return Ok(true);
        }
        let now = self.clock.now();
        let Some(runner) = self.background.iter_mut().find(|runner| runner.status().state().name == name) else {
            return Err(ProjectionError::new(format!("there is no projection {name:?}")));
        };
        runner.rebuild()?;
        let status = runner.status().clone();
        let mut shown = std::time::Instant::now();
        loop {
            let Ok(progress) = runner.step() else {
                say_last(&status.to_json(now));
                return Ok(false);
            };
            let told = status.to_json(now);
            if is_stuck(&told) {
                say_last(&told);
                return Ok(false);
            }
            let Some(building) = told.get("building") else {
                say_last(&told);
                return Ok(true);
            };
            if shown.elapsed() > Duration::from_millis(200) || progress == Progress::Done {
                show(building);
                shown = std::time::Instant::now();
            }
        }
    }
}
