//! The log of a run: all lines go into a fingerprint that shows whether two runs are the same, and the last lines are kept to
//! analyse a failure.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

/// Lines that are kept: some seconds to minutes before the fault, which is where its cause usually is.
const KEPT: usize = 60;

/// FNV-1a's parameters for 64 bits (RFC 9923): the fingerprint must be the same on every machine, and need not resist attacks.
const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// What is done with each line besides the fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// It is printed to standard error.
    Everything,
    /// It is kept for a while.
    Last,
}

/// The lines of one run.
#[derive(Debug)]
pub struct Trace {
    show: Show,
    hash: u64,
    last: VecDeque<String>,
    /// Whether `last` is frozen.
    is_kept: bool,
}

impl Trace {
    /// An empty one.
    #[must_use]
    pub fn new(show: Show) -> Self {
        Self {
            show,
            hash: FNV_BASIS,
            last: VecDeque::with_capacity(KEPT),
            is_kept: false,
        }
    }

    /// Logs an event at `now`.
    #[expect(clippy::print_stderr, reason = "the trace is what was asked for")]
    pub fn line(&mut self, now: Duration, what: fmt::Arguments<'_>) {
        let line = format!("{} {what}", Shown(now));
        for byte in line.bytes().chain([b'\n']) {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME);
        }
        if self.show == Show::Everything {
            eprintln!("{line}");
        }
        if self.is_kept {
            return;
        }
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    /// Freezes the last lines, which are those before a violation.
    pub fn keep(&mut self) {
        self.is_kept = true;
    }

    /// The fingerprint of all lines so far.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The last lines.
    #[must_use]
    pub fn last(&self) -> Vec<String> {
        self.last.iter().cloned().collect()
    }
}

/// A point in time, as days, hours, minutes, seconds.
pub struct Shown(pub Duration);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (s, ms) = (self.0.as_secs(), self.0.subsec_millis());
        let (d, h, m) = (s / 86_400, s / 3600 % 24, s / 60 % 60);
        write!(f, "{d}d {h:02}:{m:02}:{:02}.{ms:03}", s % 60)
    }
}
