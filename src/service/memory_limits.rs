//! How the memory of a service is divided between what takes it.

use bytesize::ByteSize;

use super::settings::{Settings, bytes};
use crate::memory::ledger::{Ledger, Usage};
use crate::storage::page_caches::{Connections, PageCaches};

/// The limit of each usage, in bytes. Their sum is at most `--memory`.
#[derive(Debug)]
pub(super) struct MemoryLimits {
    by_usage: [usize; Usage::ALL.len()],
}

/// Why the memory cannot be divided like that.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidMemory {
    #[error(
        "--memory {memory} is less than its parts, which add up to {sum}: {parts}; raise --memory or lower some of these"
    )]
    TooLittle { memory: String, sum: String, parts: String },
    #[error(
        "--page-caches {given} is too little for the connections to the database and to the projections; expected at \
         least {least}"
    )]
    PageCaches { given: String, least: String },
}

impl MemoryLimits {
    /// A part without a setting of its own is a share of `--memory`.
    ///
    /// # Errors
    /// The parts add up to more than `--memory`.
    pub(super) fn of(settings: &Settings) -> Result<Self, InvalidMemory> {
        let memory = bytes(settings.memory);
        let by_usage = Usage::ALL.map(|usage| match part(settings, usage) {
            (_, Some(size), _) => bytes(size),
            (_, None, sixteenths) => memory / 16 * sixteenths,
        });
        let sum = by_usage.iter().fold(0, |sum: usize, part| sum.saturating_add(*part));
        if sum <= memory {
            return Ok(Self { by_usage });
        }
        let parts = Usage::ALL.map(|usage| format!("{} {}", part(settings, usage).0, size(by_usage[usage as usize])));
        Err(InvalidMemory::TooLittle { memory: size(memory), sum: size(sum), parts: parts.join(", ") })
    }

    /// The budgets. The page caches of these connections count from the beginning, because SQLite fills them sooner or
    /// later.
    ///
    /// # Errors
    /// There is too little memory for these connections.
    pub(super) fn into_ledger(self, connections: Connections) -> Result<(Ledger, PageCaches), InvalidMemory> {
        let total = self.by_usage[Usage::PageCaches as usize];
        let caches = PageCaches::divide(total, connections)
            .map_err(|least| InvalidMemory::PageCaches { given: size(total), least: size(least) })?;
        let mut ledger = Ledger::new(|usage| self.by_usage[usage as usize]);
        ledger.charge(Usage::PageCaches, caches.sum(connections)).expect("it was divided between these connections");
        Ok((ledger, caches))
    }
}

/// The flag of a usage, its value, and its share in sixteenths of `--memory`.
fn part(settings: &Settings, usage: Usage) -> (&'static str, Option<ByteSize>, usize) {
    match usage {
        Usage::Commands => ("--command-memory", settings.command_memory, 2),
        Usage::SharedBodies => ("--shared-bodies", settings.shared_bodies, 2),
        Usage::SharedEvents => ("--shared-events", settings.shared_events, 1),
        Usage::Streams => ("--stream-memory", settings.stream_memory, 4),
        Usage::Answers => ("--answer-memory", settings.answer_memory, 2),
        Usage::Filters => ("--filter-memory", settings.filter_memory, 1),
        Usage::Aggregates => ("--aggregate-memory", settings.aggregate_memory, 1),
        Usage::PageCaches => ("--page-caches", settings.page_caches, 3),
    }
}

/// `64 MiB`, as people write it.
fn size(bytes: usize) -> String {
    ByteSize(bytes as u64).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(change: impl FnOnce(&mut Settings)) -> Result<MemoryLimits, InvalidMemory> {
        let mut settings = Settings::default();
        change(&mut settings);
        MemoryLimits::of(&settings)
    }

    #[test]
    fn the_parts_are_shares_of_the_whole() {
        for mib in [128, 512, 4096] {
            let limits = limits(|settings| settings.memory = ByteSize::mib(mib)).unwrap();
            assert_eq!(limits.by_usage.iter().sum::<usize>(), bytes(ByteSize::mib(mib)), "{mib} MiB");
            assert_eq!(limits.by_usage[Usage::Commands as usize], bytes(ByteSize::mib(mib / 8)));
        }
        let limits = limits(|settings| settings.shared_bodies = Some(ByteSize::kib(1))).unwrap();
        assert_eq!(limits.by_usage[Usage::SharedBodies as usize], 1024);
    }

    #[test]
    fn parts_that_add_up_to_more_than_the_whole_are_refused_with_the_figures() {
        let error = limits(|settings| settings.shared_bodies = Some(ByteSize::gib(1))).unwrap_err().to_string();
        for part in ["--memory 512.0 MiB", "1.4 GiB", "--shared-bodies 1.0 GiB", "--command-memory 64.0 MiB"] {
            assert!(error.contains(part), "{part} in {error}");
        }
        assert!(!error.contains('\n'));
        assert!(limits(|settings| settings.stream_memory = Some(ByteSize(u64::MAX))).is_err());
    }

    #[test]
    fn page_caches_count_from_the_beginning() {
        let connections = Connections { readers: 9, sidecars: 12 };
        let (ledger, caches) = limits(|_| ()).unwrap().into_ledger(connections).unwrap();
        let budget = ledger.of(Usage::PageCaches);
        assert_eq!(budget.used(), caches.sum(connections));
        let limits = limits(|settings| settings.page_caches = Some(ByteSize::mib(1))).unwrap();
        let error = limits.into_ledger(connections).unwrap_err().to_string();
        assert!(error.contains("--page-caches 1.0 MiB") && error.contains("at least 2"), "{error}");
    }
}
