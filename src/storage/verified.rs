//! The result of one check of `duality verify`.

use std::fmt;

/// What one check looked at, and what it found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verified {
    /// What was checked: the file, the counters, a collection, a projection.
    pub subject: String,
    /// What was looked at, with numbers.
    pub looked_at: String,
    /// The first findings.
    findings: Vec<String>,
    /// The number of all findings.
    count: usize,
}

/// The maximum number of findings of a check that are kept.
const MAX_FINDINGS: usize = 20;

impl Verified {
    pub(crate) fn new(subject: impl Into<String>) -> Self {
        Self { subject: subject.into(), looked_at: String::new(), findings: Vec::new(), count: 0 }
    }

    /// Whether nothing was found.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.count == 0
    }

    /// The number of findings.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// The first 20 findings, each a sentence.
    #[must_use]
    pub fn findings(&self) -> &[String] {
        &self.findings
    }

    pub(super) fn into_findings(self) -> Vec<String> {
        let Self { subject, findings, .. } = self;
        findings.into_iter().map(|finding| format!("{subject}: {finding}")).collect()
    }

    pub(crate) fn add(&mut self, finding: String) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        }
        self.count += 1;
    }

    pub(crate) fn extend(&mut self, findings: Vec<String>) {
        findings.into_iter().for_each(|finding| self.add(finding));
    }
}

/// A line for the check, and one for each finding.
impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subject, looked_at, findings, count } = self;
        write!(f, "{subject}: {looked_at}: ")?;
        match count {
            0 => return f.write_str("ok"),
            1 => f.write_str("1 finding")?,
            more => write!(f, "{more} findings")?,
        }
        for finding in findings {
            write!(f, "\n  {subject}: {finding}")?;
        }
        if *count > findings.len() {
            write!(f, "\n  … and {} more", count - findings.len())?;
        }
        Ok(())
    }
}
