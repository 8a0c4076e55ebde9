//! The tasks of the command line. If a service uses the database, it does them; otherwise they work on the files.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::domain::clock::Clock;
use crate::domain::collection::Registry;
use crate::domain::error_chain::ErrorChain;
use crate::projector;
use crate::projector::at_rest::Place;
use crate::projector::registry::ProjectionSet;
use crate::projector::status::{Mode, Status};
use crate::read_model::error::ProjectionError;
use crate::service::collection_tasks;
use crate::service::control::{ControlClient, ControlRequest};
use crate::service::copies;
use crate::service::erasing::{self, Erasing};
use crate::service::new_epoch;
use crate::service::offline::Offline;
use crate::service::progress::LogProgress;
use crate::service::settings::{EpochTask, ProjectionTask, Settings, Task};
use crate::service::shell::{print_completions, print_manual};
use crate::service::task::{TaskError, TaskOutcome, print_line};
use crate::service::token_tasks;
use crate::storage::backlog;
use crate::storage::backup::{Check, IfExists};
use crate::storage::database::Database;
use crate::storage::error::StoreError;
use crate::storage::location::{files_of, require_existing, resolve};
use crate::storage::ownership::require_owner;
use crate::storage::page::Progress;
use crate::storage::preparation;
use crate::storage::transaction::WriteError;
use crate::storage::verified::Verified;

/// Runs a task. An error is one line in the log.
pub(super) fn run(task: &Task, settings: &Settings, registry: Registry, projections: ProjectionSet) -> ExitCode {
    let outcome = match task {
        Task::Backup { target, force: false } => copies::back_up(settings, &registry, target, IfExists::Fail),
        Task::Backup { target, force: true } => copies::back_up(settings, &registry, target, IfExists::Replace),
        Task::Restore { source, force: false } => copies::restore_copy(settings, source, Check::Everything(&registry)),
        Task::Restore { source, force: true } => copies::restore_copy(settings, source, Check::Report(&registry)),
        Task::Migrate { check: true } => copies::check_migration(settings, &registry),
        Task::Migrate { check: false } => copies::migrate(settings, registry, projections),
        Task::Erase { collection, key } => {
            erasing::erase(settings, registry, projections, &Erasing { collection, key })
        }
        Task::Collection { task } => collection_tasks::run(task, settings, &registry),
        Task::Epoch { task: EpochTask::New } => new_epoch::begin(settings),
        Task::Verify => verify_database(settings, &registry, &projections),
        Task::Completions { shell } => print_completions(*shell),
        Task::Man => print_manual(),
        Task::Token { task } => token_tasks::run(task, settings, &registry),
        Task::Projection { task } => run_projection_task(task, settings, registry, projections),
    };
    match outcome {
        Ok(TaskOutcome::Success) => ExitCode::SUCCESS,
        Ok(TaskOutcome::Failure) => ExitCode::FAILURE,
        Ok(TaskOutcome::Pending) => ExitCode::from(3),
        Err(error) => {
            log::error!("{}", ErrorChain(&error));
            ExitCode::FAILURE
        }
    }
}

fn verify_database(
    settings: &Settings,
    registry: &Registry,
    projections: &ProjectionSet,
) -> Result<TaskOutcome, TaskError> {
    let results = projector::verify::verify(&settings.database, &settings.files, registry, projections)?;
    results.iter().for_each(|verified| print_line(&verified.to_string()));
    let is_sound = results.iter().all(Verified::is_sound);
    Ok(if is_sound { TaskOutcome::Success } else { TaskOutcome::Failure })
}

fn run_projection_task(
    task: &ProjectionTask,
    settings: &Settings,
    registry: Registry,
    projections: ProjectionSet,
) -> Result<TaskOutcome, TaskError> {
    require_existing(&settings.database)?;
    if *task == ProjectionTask::List {
        return list_projections(settings, &projections);
    }
    preparation::reject_foreign_file(&settings.database)?;
    match Database::open_beside(&settings.database, &settings.files) {
        Ok(database) => {
            require_owner(database.path())?;
            preparation::prepare(&database, &registry, settings.copy_before(), &LogProgress::new())?;
            Offline::open(database, registry, projections)?.run(task)
        }
        Err(StoreError::Locked { path, holder }) => match ControlClient::connect(&path) {
            Ok(mut service) => run_online(task, &mut service),
            Err(_) => Err(StoreError::Locked { path, holder }.into()),
        },
        Err(error) => Err(error.into()),
    }
}

/// Asks the running service for the list, or reads the files, which are not changed.
fn list_projections(settings: &Settings, projections: &ProjectionSet) -> Result<TaskOutcome, TaskError> {
    let files = resolve(files_of(&settings.database, &settings.files))?;
    if let Ok(mut service) = ControlClient::connect(&files) {
        return run_online(&ProjectionTask::List, &mut service);
    }
    backlog::require_current(&settings.database)?;
    let place = Place { database: &settings.database, files: &files };
    let now = Clock::default().now();
    for projection in &projections.inline {
        let status = Status::new(projection.name, projection.version, Mode::Inline);
        print_line(&status_line(&status.to_json(now)));
    }
    for projection in &projections.background {
        let status = projector::at_rest::status(place, projection, now)?;
        print_line(&status_line(&status.to_json(now)));
    }
    Ok(TaskOutcome::Success)
}

/// Asks the running service to do a task.
fn run_online(task: &ProjectionTask, service: &mut ControlClient) -> Result<TaskOutcome, TaskError> {
    match task {
        ProjectionTask::List => {
            let statuses = service.send(&ControlRequest::List)?;
            statuses.as_array().into_iter().flatten().for_each(|status| print_line(&status_line(status)));
            Ok(TaskOutcome::Success)
        }
        ProjectionTask::Rebuild { name } => {
            let mut status = service.send(&ControlRequest::Rebuild { name: name.clone() })?;
            while let Some(building) = status.get("building") {
                print_progress(building);
                if is_stuck(&status) {
                    print_last_line(&status);
                    return Ok(TaskOutcome::Failure);
                }
                std::thread::sleep(PROGRESS_INTERVAL);
                status = service.send(&ControlRequest::Status { name: name.clone() })?;
            }
            print_last_line(&status);
            Ok(if status["state"] == "live" { TaskOutcome::Success } else { TaskOutcome::Failure })
        }
        ProjectionTask::Skip { name, at } => {
            let status = service.send(&ControlRequest::Skip { name: name.clone(), at: *at })?;
            print_line(&status_line(&status));
            Ok(TaskOutcome::Success)
        }
    }
}

/// How often the progress of a rebuild is printed.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

impl Offline {
    fn run(mut self, task: &ProjectionTask) -> Result<TaskOutcome, TaskError> {
        let outcome = match task {
            ProjectionTask::Rebuild { name } => self.rebuild(name),
            ProjectionTask::List | ProjectionTask::Skip { .. } => {
                Err(ProjectionError::new("no service is running, so no projection has stopped at an event").into())
            }
        };
        self.close()?;
        outcome
    }

    fn rebuild(&mut self, name: &str) -> Result<TaskOutcome, TaskError> {
        if self.inline.iter().any(|projection| projection.name == name) {
            self.writer.rebuild(name, self.clock.now()).map_err(WriteError::into_cause)?;
            print_line(&format!("{name} was rebuilt"));
            return Ok(TaskOutcome::Success);
        }
        let now = self.clock.now();
        let found = self.background.iter_mut().find(|runner| runner.status().state().name == name);
        let Some(runner) = found else {
            let names = self.inline.iter().map(|projection| projection.name.to_owned());
            let names = names.chain(self.background.iter().map(|runner| runner.status().state().name.to_owned()));
            let names = names.collect::<Vec<_>>().join(", ");
            return Err(
                ProjectionError::new(format!("there is no projection {name:?}; expected one of {names}")).into()
            );
        };
        runner.rebuild()?;
        let status = runner.status().clone();
        let mut printed = Instant::now();
        loop {
            let step = runner.step();
            let status = status.to_json(now);
            if step.is_err() || is_stuck(&status) {
                print_last_line(&status);
                return Ok(TaskOutcome::Failure);
            }
            let Some(building) = status.get("building") else {
                print_last_line(&status);
                return Ok(TaskOutcome::Success);
            };
            if printed.elapsed() > PROGRESS_INTERVAL || step == Ok(Progress::Done) {
                print_progress(building);
                printed = Instant::now();
            }
        }
    }
}

/// Whether a rebuild is failing. An error of the live generation does not count: it may be the reason for the rebuild.
fn is_stuck(status: &Value) -> bool {
    let generation_of = |member: &str| status[member]["generation"].as_i64();
    let failing = generation_of("error");
    status["state"] == "failing" && (failing.is_none() || failing == generation_of("building"))
}

/// `cart_items  version 1  live  0 events, 0 s behind`
fn status_line(status: &Value) -> String {
    if status["mode"] == "broker" {
        return output_line(status);
    }
    let text = |member: &str| status[member].as_str().unwrap_or_default();
    let lag = |member: &str| status["lag"][member].as_i64().unwrap_or_default();
    let mut line = format!(
        "{:<20} version {:<3} {:<10} {:<8} {} events, {} s behind",
        text("name"),
        status["version"],
        text("mode"),
        text("state"),
        lag("events"),
        lag("seconds"),
    );
    if let Some(building) = status.get("building") {
        line.push_str(&format!("; {}", progress(building)));
    }
    if let Some(error) = status.get("error") {
        line.push_str(&format!("; stopped at {}: {}", error["at"], error["message"].as_str().unwrap_or_default()));
    }
    line
}

/// `publish changes      at 17    broker     live     0 events, 0 s behind`
fn output_line(status: &Value) -> String {
    let text = |member: &str| status[member].as_str().unwrap_or_default();
    let mut line = format!(
        "{:<20} at {:<8} {:<10} {:<8} {} events, {} s behind",
        text("name"),
        status["at"],
        text("mode"),
        text("state"),
        status["lag"]["events"],
        status["lag"]["seconds"],
    );
    if let Some(error) = status["last_error"].as_str() {
        line.push_str(&format!("; attempts that failed: {}, the last one: {error}", status["retries"]));
    }
    if let Some(error) = status["erasing_error"].as_str() {
        line.push_str(&format!("; erased aggregates are not removed: {error}"));
    }
    line
}

/// `[##########----------]  50%  100000/200000  350000/s  0.3 s left`
fn progress(building: &Value) -> String {
    let number = |member: &str| building[member].as_f64().unwrap_or_default();
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

/// Prints the progress of a rebuild: in place on a terminal, otherwise as a new line.
fn print_progress(building: &Value) {
    let mut output = std::io::stdout();
    let (before, after) = if output.is_terminal() { ("\r", "\x1b[K") } else { ("", "\n") };
    let _ = write!(output, "{before}{}{after}", progress(building));
    let _ = output.flush();
}

/// Prints the status in place of the progress.
fn print_last_line(status: &Value) {
    if std::io::stdout().is_terminal() {
        let _ = write!(std::io::stdout(), "\r\x1b[K");
    }
    print_line(&status_line(status));
}
