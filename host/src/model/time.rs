//! Points in time: the wall clock in milliseconds, read together with a clock that neither jumps nor stops while the machine
//! sleeps.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Milliseconds since the Unix epoch, as in the plugin interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The point `duration` later; stays at the end of time instead of wrapping.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)),
        )
    }

    /// The point `duration` earlier; stays at the epoch instead of wrapping.
    #[must_use]
    pub fn before(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)),
        )
    }

    /// The time from `earlier` to this point, zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// RFC 3339 in UTC, to the second. Years have four digits there, so later times are shown as the last one: the text is valid
/// whatever a plugin or an issuer stated.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = jiff::Timestamp::MAX.as_second();
        let seconds = i64::try_from(self.0 / 1000).map_or(last, |seconds| seconds.min(last));
        let shown = jiff::Timestamp::from_second(seconds).map_err(|_| fmt::Error)?;
        write!(f, "{shown}")
    }
}

/// Points in time as RFC 3339 in UTC, to the second, as Kubernetes writes them.
pub(crate) mod rfc3339 {
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    use super::Timestamp;

    pub(crate) fn serialize<S: Serializer>(at: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(at)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        let text = String::deserialize(from)?;
        let at: jiff::Timestamp = text.parse().map_err(de::Error::custom)?;
        Ok(Timestamp(
            u64::try_from(at.as_millisecond()).unwrap_or_default(),
        ))
    }

    pub(crate) mod optional {
        use serde::{Deserialize, Deserializer, Serializer};

        use crate::model::time::Timestamp;

        #[derive(Deserialize)]
        struct Wrapped(#[serde(with = "super")] Timestamp);

        #[expect(
            clippy::ref_option,
            reason = "serde's `with` passes the field by reference"
        )]
        pub(crate) fn serialize<S: Serializer>(
            at: &Option<Timestamp>,
            to: S,
        ) -> Result<S::Ok, S::Error> {
            match at {
                Some(at) => super::serialize(at, to),
                None => to.serialize_none(),
            }
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
            from: D,
        ) -> Result<Option<Timestamp>, D::Error> {
            Ok(Option::<Wrapped>::deserialize(from)?.map(|Wrapped(at)| at))
        }
    }
}

/// Both clocks, read together, which distinguishes a jump of the wall clock from time that passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// The wall clock; may jump.
    pub wall: Timestamp,
    /// Time since boot, suspension included (CLOCK_BOOTTIME); never jumps.
    pub boot: Duration,
}

/// The source of the time, which the simulator replaces.
pub trait Clock: Send + Sync {
    /// Both clocks, now.
    fn now(&self) -> Reading;
}

/// The machine's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Reading {
        let wall = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Reading {
            wall: Timestamp(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX)),
            boot: Duration::new(
                u64::try_from(boot.tv_sec).unwrap_or_default(),
                u32::try_from(boot.tv_nsec).unwrap_or_default(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_shown_as_one_that_can_be_read() {
        for (milliseconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_700_000_000_999, "2023-11-14T22:13:20Z"),
            (253_402_207_200_000, "9999-12-30T22:00:00Z"),
            (253_402_300_800_000, "9999-12-30T22:00:00Z"),
            (i64::MAX as u64, "9999-12-30T22:00:00Z"),
            (u64::MAX, "9999-12-30T22:00:00Z"),
        ] {
            let shown = Timestamp(milliseconds).to_string();
            assert_eq!(shown, expected, "{milliseconds}");
            assert!(shown.parse::<jiff::Timestamp>().is_ok(), "{milliseconds}");
        }
    }
}
