//! How often something may happen: so many times a minute, and a minute's worth at once. The generic cell rate algorithm (ITU-T I.371),
//! which needs one point in time for each of them.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

/// How much may happen at once: what is allowed within this time.
const BURST: Duration = Duration::from_secs(60);

/// Rates that are kept before those that are over are dropped.
const KEPT: usize = 1024;

/// Rates by what they are of. Points in time are on the boot clock.
#[derive(Debug)]
pub struct Rates<K> {
    /// When all that happened so far would have happened at an even pace.
    even: HashMap<K, Duration>,
}

impl<K> Default for Rates<K> {
    fn default() -> Self {
        Self {
            even: HashMap::new(),
        }
    }
}

impl<K: Eq + Hash> Rates<K> {
    /// Takes one of each of these, by how many a minute may have, or none of any.
    ///
    /// # Errors
    /// How long until all of them have one.
    pub fn take<const N: usize>(
        &mut self,
        wanted: [(K, u32); N],
        now: Duration,
    ) -> Result<(), Duration> {
        let waits = wanted.iter().map(|(key, per_minute)| {
            let even = self.even.get(key).copied().unwrap_or_default().max(now);
            (even + step(*per_minute)).saturating_sub(now + BURST)
        });
        let wait = waits.max().unwrap_or_default();
        if !wait.is_zero() {
            return Err(wait);
        }
        for (key, per_minute) in wanted {
            let even = self.even.entry(key).or_default();
            *even = (*even).max(now) + step(per_minute);
        }
        if self.even.len() > KEPT {
            self.even.retain(|_, even| *even > now);
        }
        Ok(())
    }
}

/// The time between two of them at an even pace.
fn step(per_minute: u32) -> Duration {
    BURST / per_minute.max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_minutes_worth_may_come_at_once_and_then_one_after_another() {
        let mut rates = Rates::default();
        let now = 1000 * SECOND;
        for nth in 0..6 {
            assert_eq!(rates.take([("a", 6)], now), Ok(()), "{nth}");
        }
        assert_eq!(rates.take([("a", 6)], now), Err(10 * SECOND));
        assert_eq!(rates.take([("b", 6)], now), Ok(()), "another one");
        assert_eq!(rates.take([("a", 6)], now + 10 * SECOND), Ok(()));
        assert_eq!(rates.take([("a", 6)], now + 11 * SECOND), Err(9 * SECOND));
    }

    #[test]
    fn nothing_is_taken_of_one_while_another_has_none() {
        let mut rates = Rates::default();
        let now = 1000 * SECOND;
        assert_eq!(rates.take([("all", 60), ("one", 1)], now), Ok(()));
        for _ in 0..100 {
            assert!(rates.take([("all", 60), ("one", 1)], now).is_err());
        }
        for _ in 0..59 {
            assert_eq!(rates.take([("all", 60)], now), Ok(()));
        }
        assert!(rates.take([("all", 60)], now).is_err());
    }

    proptest! {
        #[test]
        fn no_minute_has_more_than_twice_what_it_may(per_minute in 1_u32..100, gaps_ms in proptest::collection::vec(0_u64..3000, 1..300)) {
            let (mut rates, mut now, mut taken) = (Rates::default(), 1000 * SECOND, Vec::new());
            for gap in gaps_ms {
                now += Duration::from_millis(gap);
                if rates.take([((), per_minute)], now).is_ok() {
                    taken.push(now);
                }
            }
            for from in &taken {
                let within = taken.iter().filter(|at| *at >= from && **at < *from + BURST);
                prop_assert!(within.count() <= 2 * per_minute as usize);
            }
        }
    }
}
