//! What the operating system says about this process.

use std::fs;

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

/// What the process uses now.
pub(super) struct Process {
    /// In bytes.
    pub(super) resident_memory: usize,
    pub(super) open_files: usize,
    /// `None` if there is no limit.
    pub(super) max_files: Option<u64>,
    pub(super) cpu_seconds: f64,
}

impl Process {
    /// Reads `/proc`. `None` if it has not what is expected.
    pub(super) fn read() -> Option<Self> {
        let memory = fs::read_to_string("/proc/self/statm").ok()?;
        let pages: usize = memory.split(' ').nth(1)?.parse().ok()?;
        // The directory itself is open while it is read.
        let open_files = fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1);
        Some(Self {
            resident_memory: pages * page_size(),
            open_files,
            max_files: getrlimit(Resource::Nofile).current,
            cpu_seconds: cpu_seconds(&fs::read_to_string("/proc/self/stat").ok()?)?,
        })
    }
}

/// The time of all threads, from the text of `/proc/self/stat`.
#[expect(clippy::cast_precision_loss, reason = "Prometheus stores floating-point numbers")]
fn cpu_seconds(stat: &str) -> Option<f64> {
    // The second field is the name of the program, in parentheses, which may have spaces.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut times = fields.split(' ').skip(11);
    let user: u64 = times.next()?.parse().ok()?;
    let system: u64 = times.next()?.parse().ok()?;
    Some((user + system) as f64 / clock_ticks_per_second() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_program_may_have_spaces_and_parentheses() {
        let stat = "17 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0";
        let seconds = cpu_seconds(stat).unwrap();
        assert!((seconds * clock_ticks_per_second() as f64 - 200.0).abs() < 1e-6, "{seconds}");
    }
}
