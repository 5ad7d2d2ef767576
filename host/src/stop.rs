//! How long each phase of an orderly end may take. All of them together leave room in the 30 s that Kubernetes gives a Pod by default
//! (`terminationGracePeriodSeconds`): what is killed in the middle may lose a rotated secret.

use std::time::Duration;

/// From the signal on: writes that had begun before. One takes milliseconds unless its destination is in trouble, and the next start
/// makes up for it.
pub const WRITES: Duration = Duration::from_millis(1500);

/// From the signal on: exchanges that must not be lost, with the writes of what they bring.
pub const EXCHANGES: Duration = Duration::from_secs(10);

/// From the signal on: answers to requests with rotating secrets, for the state store alone. Most come within a second.
pub(crate) const ANSWERS: Duration = Duration::from_secs(20);

/// After that: writing values back that could not be written back before.
pub(crate) const WRITING_BACK: Duration = Duration::from_secs(1);

/// After that: a reader of the log that is slow.
pub(crate) const LAST_LINES: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    /// For what takes no time that anybody waits for, on a machine that is busy.
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
