//! A consumer that reads a file continuously and records every moment at which the content was unusable.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, anyhow};

/// How often the file is read.
pub const INTERVAL: Duration = Duration::from_millis(5);
/// More are not needed to understand a failure.
const MAX_FAULTS: usize = 1000;

/// The result of one reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// A valid token.
    Good,
    /// The file is missing or unreadable.
    Absent,
    /// An incomplete token.
    Partial,
    /// A complete token that has expired.
    Expired,
}

/// A reading that was not [`Sight::Good`].
#[derive(Clone, Debug)]
pub struct Fault {
    /// What was seen.
    pub sight: Sight,
    /// Since the reader's start.
    pub after: Duration,
    /// The content; empty when absent.
    pub content: Vec<u8>,
}

/// The results of all readings.
#[derive(Clone, Debug, Default)]
pub struct Sightings {
    /// How often the file was read.
    pub readings: u64,
    /// Readings without a usable file.
    pub absent: u64,
    /// Readings of torn content.
    pub partial: u64,
    /// Readings of expired tokens.
    pub expired: u64,
    /// Each content that differed from the one before it, and when it was first seen.
    pub contents: Vec<(SystemTime, Vec<u8>)>,
    /// The first thousand readings that were not good.
    pub faults: Vec<Fault>,
    /// The longest time between two readings, in which a fault could have been missed.
    pub longest_gap: Duration,
}

impl Sightings {
    /// Whether every reading was good, and there was one.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.readings > 0 && self.absent + self.partial + self.expired == 0
    }
}

/// The reading thread; ends on drop.
#[derive(Debug)]
pub struct PollReader {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Sightings>>,
}

impl PollReader {
    /// Reads `path` every [`INTERVAL`] from now on; `judge` evaluates a content at that moment.
    #[must_use]
    pub fn start(path: &Path, judge: impl Fn(&[u8]) -> Sight + Send + 'static) -> Self {
        let (path, stop) = (path.to_path_buf(), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || watch(&path, &judge, &stopped));
        Self {
            stop,
            thread: Some(thread),
        }
    }

    /// Stops reading and returns the results.
    ///
    /// # Errors
    ///
    /// When `judge` panicked.
    pub fn stop(mut self) -> Result<Sightings> {
        self.stop.store(true, Ordering::SeqCst);
        let thread = self
            .thread
            .take()
            .ok_or_else(|| anyhow!("the reader has been stopped"))?;
        thread
            .join()
            .map_err(|_| anyhow!("the judge of the reader panicked"))
    }
}

impl Drop for PollReader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

fn watch(path: &Path, judge: &dyn Fn(&[u8]) -> Sight, stop: &AtomicBool) -> Sightings {
    let mut seen = Sightings::default();
    let start = Instant::now();
    let mut last = start;
    while !stop.load(Ordering::SeqCst) {
        seen.longest_gap = seen.longest_gap.max(last.elapsed());
        last = Instant::now();
        let content = std::fs::read(path);
        let sight = content
            .as_ref()
            .map_or(Sight::Absent, |content| judge(content));
        note(
            &mut seen,
            sight,
            content.unwrap_or_default(),
            start.elapsed(),
        );
        std::thread::sleep(INTERVAL.saturating_sub(last.elapsed()));
    }
    seen
}

fn note(seen: &mut Sightings, sight: Sight, content: Vec<u8>, after: Duration) {
    seen.readings += 1;
    match sight {
        Sight::Good => {}
        Sight::Absent => seen.absent += 1,
        Sight::Partial => seen.partial += 1,
        Sight::Expired => seen.expired += 1,
    }
    if sight != Sight::Good && seen.faults.len() < MAX_FAULTS {
        seen.faults.push(Fault {
            sight,
            after,
            content: content.clone(),
        });
    }
    if sight != Sight::Absent
        && seen
            .contents
            .last()
            .is_none_or(|(_, last)| *last != content)
    {
        seen.contents.push((SystemTime::now(), content));
    }
}
