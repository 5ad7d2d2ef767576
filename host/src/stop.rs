//! Time limits of the phases of a graceful stop. Together they fit into the 30 s that Kubernetes gives a Pod by default
//! (`terminationGracePeriodSeconds`): killing the process in the middle may lose a rotated secret.

use std::time::Duration;

/// From the signal on: writes that had begun before. One takes milliseconds unless its destination fails, and the next start
/// repeats it.
pub const WRITES: Duration = Duration::from_millis(1500);

/// From the signal on: exchanges that must not be lost, and the writes of their results.
pub const EXCHANGES: Duration = Duration::from_secs(10);

/// From the signal on: answers to requests with rotating secrets, which are only stored in the state store. Most come within a
/// second.
pub(crate) const ANSWERS: Duration = Duration::from_secs(20);

/// After that: the write-back of values that could not be written back before.
pub(crate) const WRITING_BACK: Duration = Duration::from_secs(1);

/// After that: a slow reader of the log.
pub(crate) const LAST_LINES: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    /// A margin for short operations on a busy machine.
    const MARGIN: Duration = Duration::from_secs(4);

    const KUBERNETES_GIVES: Duration = Duration::from_secs(30);

    #[test]
    fn an_end_leaves_room_in_the_time_that_kubernetes_gives() {
        let mut ends = Duration::ZERO;
        for (phase, begins, what) in [
            (WRITES, Duration::ZERO, "writes under way"),
            (EXCHANGES, Duration::ZERO, "exchanges and what they bring"),
            (ANSWERS, Duration::ZERO, "answers for the store"),
            (WRITING_BACK, ANSWERS, "writing back"),
            (LAST_LINES, ANSWERS + WRITING_BACK, "the log's last lines"),
        ] {
            assert!(ends <= begins + phase, "{what} are cut short");
            ends = begins + phase;
        }
        assert_eq!(ends + MARGIN, KUBERNETES_GIVES);
    }
}
