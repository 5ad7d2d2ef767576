//! Non-blocking standard error: a thread writes the lines. If the reader has stopped and the pipe is full, lines are dropped and
//! counted, and their writers are not blocked.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;

use crate::printable::printable;
use crate::stop;

/// The most bytes of queued log lines: some thousands of lines, for a reader that pauses for a moment.
const WAITING_BYTES: usize = 1024 * 1024;

/// At the end of the process: the reader counts as gone after so long without a line being written.
const STALLED: Duration = Duration::from_millis(500);

/// The writer of this process, once started.
static LINES: OnceLock<Lines> = OnceLock::new();

/// Starts the thread that writes all lines from now on.
pub(super) fn start() -> io::Result<&'static Lines> {
    if let Some(lines) = LINES.get() {
        return Ok(lines);
    }
    let lines = Lines::start(io::stderr(), |lost| {
        tracing::warn!(
            lost,
            "log lines were lost because nobody read standard error"
        );
    })?;
    Ok(LINES.get_or_init(|| lines))
}

/// Whether messages are logged as errors.
static SAYS_IN_LOG: AtomicBool = AtomicBool::new(false);

/// From now on messages are logged as errors, so that a reader of JSON lines gets nothing else.
pub(super) fn say_in_log() {
    SAYS_IN_LOG.store(true, Ordering::Relaxed);
}

/// Prints a message. Parts of it may come from a plugin, an issuer or a file.
pub(super) fn say(text: &str) {
    if SAYS_IN_LOG.load(Ordering::Relaxed) {
        tracing::error!("{}", text.strip_prefix("error: ").unwrap_or(text));
        return;
    }
    let lines = text.lines().map(|line| format!("{}\n", printable(line)));
    write(lines.collect::<String>().as_bytes());
}

/// Writes the output or the final message of a command. It is not dropped in favour of log lines.
pub(super) fn write(text: &[u8]) {
    match LINES.get() {
        Some(lines) => lines.push(text),
        None => {
            let _ = io::stderr().write_all(text);
        }
    }
}

/// Counts lost lines in `counter`, including earlier ones.
pub(super) fn count_lost(counter: Counter) {
    if let Some(lines) = LINES.get() {
        lines.count_lost(counter);
    }
}

/// Waits until all lines are written or the reader counts as gone.
pub(super) fn finish() {
    if let Some(lines) = LINES.get() {
        lines.finish(STALLED, stop::LAST_LINES);
    }
}

/// Lines queued for a writer that may block.
#[derive(Clone)]
pub(super) struct Lines(Arc<StderrInner>);

struct StderrInner {
    queue: Mutex<LineQueue>,
    changed: Condvar,
}

#[derive(Default)]
struct LineQueue {
    waiting: VecDeque<Vec<u8>>,
    waiting_bytes: usize,
    is_writing: bool,
    /// Lines written or failed so far, to measure progress.
    ended: u64,
    /// Lines lost since that was last reported.
    lost: u64,
    /// Lines lost before there was a counter.
    uncounted: u64,
    counter: Option<Counter>,
}

impl LineQueue {
    fn lose(&mut self) {
        self.lost += 1;
        match &self.counter {
            Some(counter) => {
                counter.inc();
            }
            None => self.uncounted += 1,
        }
    }

    fn push(&mut self, line: &[u8]) {
        self.waiting_bytes += line.len();
        self.waiting.push_back(line.to_vec());
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && !self.is_writing
    }
}

impl Lines {
    /// Writes to `to` from a thread. `say_lost` is called with the number of lost lines, once others are written again.
    fn start(to: impl Write + Send + 'static, say_lost: fn(u64)) -> io::Result<Self> {
        let lines = Self(Arc::new(StderrInner {
            queue: Mutex::default(),
            changed: Condvar::new(),
        }));
        let writer = lines.clone();
        std::thread::Builder::new()
            .name("stderr".to_owned())
            .spawn(move || writer.write_to(to, say_lost))?;
        Ok(lines)
    }

    fn lock(&self) -> MutexGuard<'_, LineQueue> {
        let queue = self.0.queue.lock();
        queue.unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, text: &[u8]) {
        self.lock().push(text);
        self.0.changed.notify_all();
    }

    fn count_lost(&self, counter: Counter) {
        let mut queue = self.lock();
        counter.inc_by(std::mem::take(&mut queue.uncounted));
        queue.counter = Some(counter);
    }

    fn write_to(&self, mut to: impl Write, say_lost: fn(u64)) {
        loop {
            let line = self.next();
            let is_written = to.write_all(&line).and_then(|()| to.flush()).is_ok();
            let lost = self.ended(is_written);
            if lost > 0 {
                say_lost(lost);
            }
        }
    }

    fn next(&self) -> Vec<u8> {
        let mut queue = self.lock();
        loop {
            if let Some(line) = queue.waiting.pop_front() {
                queue.waiting_bytes -= line.len();
                queue.is_writing = true;
                return line;
            }
            let woken = self.0.changed.wait(queue);
            queue = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Records the end of writing a line; returns the number of lost lines, if that is to be reported.
    fn ended(&self, is_written: bool) -> u64 {
        let mut queue = self.lock();
        queue.is_writing = false;
        queue.ended += 1;
        let lost = if is_written {
            std::mem::take(&mut queue.lost)
        } else {
            queue.lose();
            0
        };
        drop(queue);
        self.0.changed.notify_all();
        lost
    }

    fn finish(&self, stalled: Duration, ending: Duration) {
        let end = Instant::now() + ending;
        let mut queue = self.lock();
        let mut pace = (queue.ended, Instant::now());
        while !queue.is_idle() {
            let now = Instant::now();
            if queue.ended != pace.0 {
                pace = (queue.ended, now);
            }
            let until = end.min(pace.1 + stalled);
            if now >= until {
                return;
            }
            let woken = self.0.changed.wait_timeout(queue, until - now);
            queue = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Writes a log line, which is dropped if too many are queued. The log's formatter passes whole lines.
impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut queue = self.lock();
        if queue.waiting_bytes + line.len() > WAITING_BYTES {
            queue.lose();
        } else {
            queue.push(line);
        }
        drop(queue);
        self.0.changed.notify_all();
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A pipe whose reader decides when a line is read.
    struct Pipe(mpsc::SyncSender<String>);

    impl Write for Pipe {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            let text = String::from_utf8_lossy(line).into_owned();
            let sent = self.0.send(text);
            sent.map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn piped() -> (Lines, mpsc::Receiver<String>) {
        let (sender, receiver) = mpsc::sync_channel(0);
        (Lines::start(Pipe(sender), |_| {}).unwrap(), receiver)
    }

    const PATIENCE: Duration = Duration::from_secs(20);

    /// Waits until the writer is blocked by a line that is not read.
    fn hang(lines: &Lines) {
        lines.push(b"hangs");
        while !lines.lock().is_writing {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_reader_that_stopped_costs_lines_which_are_counted_and_no_time() {
        let (lines, reader) = piped();
        hang(&lines);
        let line = vec![b'x'; 1024];
        let room = WAITING_BYTES / line.len();
        let write = || (&lines).write_all(&line).unwrap();
        (0..room + 100).for_each(|_| write());
        let counter = Counter::default();
        lines.count_lost(counter.clone());
        assert_eq!(counter.get(), 100, "those before there was a counter");
        write();
        assert_eq!(counter.get(), 101);

        let began = Instant::now();
        lines.finish(Duration::from_millis(50), PATIENCE);
        assert!(began.elapsed() < PATIENCE, "the end does not wait for it");

        lines.push(b"what a command was asked for is not lost");
        let read: Vec<_> = std::iter::from_fn(|| reader.recv_timeout(PATIENCE).ok())
            .take(room + 2)
            .collect();
        assert_eq!(read[0], "hangs");
        assert!(read[room + 1].ends_with("is not lost"));
    }

    #[test]
    fn what_was_lost_is_said_once_when_somebody_reads_again() {
        static SAID: Mutex<Vec<u64>> = Mutex::new(Vec::new());
        let (sender, reader) = mpsc::sync_channel(0);
        let lines = Lines::start(Pipe(sender), |lost| SAID.lock().unwrap().push(lost)).unwrap();
        hang(&lines);
        lines.lock().lose();
        lines.lock().lose();
        lines.push(b"again");
        reader.recv_timeout(PATIENCE).unwrap();
        reader.recv_timeout(PATIENCE).unwrap();
        lines.finish(PATIENCE, PATIENCE);
        assert_eq!(*SAID.lock().unwrap(), [2]);
    }

    #[test]
    fn the_end_loses_no_line_of_a_reader_that_reads() {
        let (lines, reader) = piped();
        let reading = std::thread::spawn(move || {
            let slowly = || {
                std::thread::sleep(Duration::from_millis(5));
                reader.recv_timeout(Duration::from_secs(2)).ok()
            };
            std::iter::from_fn(slowly).take(50).collect::<Vec<_>>()
        });
        for n in 0..50 {
            (&lines).write_all(format!("{n}\n").as_bytes()).unwrap();
        }
        lines.finish(PATIENCE, PATIENCE);
        assert!(lines.lock().is_idle());
        let expected: Vec<_> = (0..50).map(|n| format!("{n}\n")).collect();
        assert_eq!(reading.join().unwrap(), expected);
    }

    #[test]
    fn a_reader_that_is_gone_is_no_reason_to_wait() {
        let (lines, reader) = piped();
        drop(reader);
        (&lines).write_all(b"nobody reads this\n").unwrap();
        lines.finish(PATIENCE, PATIENCE);
        let counter = Counter::default();
        lines.count_lost(counter.clone());
        assert_eq!(counter.get(), 1);
    }
}
