//! The clocks of plugins. Their resolution is one millisecond, as in the plugin interface, too coarse for timing attacks:
//! operations whose duration depends on a secret's length take microseconds.

use std::time::{Duration, Instant, SystemTime};

use wasmtime_wasi::{HostMonotonicClock, HostWallClock};

/// The resolution of the clocks.
const STEP: Duration = Duration::from_millis(1);

/// Time since the call began.
pub(super) struct Monotonic(Instant);

impl Monotonic {
    pub(super) fn new() -> Self {
        Self(Instant::now())
    }
}

/// Time since 1970.
pub(super) struct Wall;

impl HostMonotonicClock for Monotonic {
    fn resolution(&self) -> u64 {
        nanoseconds(STEP)
    }

    fn now(&self) -> u64 {
        nanoseconds(whole_steps(self.0.elapsed()))
    }
}

impl HostWallClock for Wall {
    fn resolution(&self) -> Duration {
        STEP
    }

    fn now(&self) -> Duration {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        whole_steps(since_1970.unwrap_or_default())
    }
}

fn whole_steps(time: Duration) -> Duration {
    Duration::new(
        time.as_secs(),
        time.subsec_nanos() / STEP.subsec_nanos() * STEP.subsec_nanos(),
    )
}

/// They last for 584 years.
fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_in_whole_steps() {
        for (micros, steps) in [(0, 0), (999, 0), (1_000, 1), (2_999_999, 2_999)] {
            let whole = whole_steps(Duration::from_micros(micros));
            assert_eq!(whole, STEP * steps, "{micros}");
        }
    }
}
