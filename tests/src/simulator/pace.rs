//! The rate of unsuccessful requests: in a long outage under two requests a minute for each client of an issuer (see the host's
//! `refresh::circuit_breaker`). An unanswered request may be repeated once soon after, because issuers give seconds of grace: the
//! repetition is not counted.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// An outage counts as long after this.
const LONG: Duration = Duration::from_secs(20 * 60);

/// The window over which requests are counted.
const WINDOW: Duration = Duration::from_secs(10 * 60);

/// The limit of requests per minute.
const PER_MINUTE: usize = 2;

/// The most requests with which a process that starts notices the outage.
const PER_START: usize = 6;

/// The time after its start in which a process notices an outage.
const LEARNS: Duration = Duration::from_secs(2 * 60);

/// How soon a repetition follows: two seconds after the request, or as soon as its answer is lost.
const REPEATED_WITHIN: Duration = Duration::from_secs(5);

/// A client of an issuer.
pub type Client = (usize, String);

/// The unsuccessful requests of clients.
#[derive(Debug, Default)]
pub struct Pace {
    waiting: BTreeMap<Client, Waiting>,
    starts: VecDeque<Duration>,
}

#[derive(Debug)]
struct Waiting {
    since: Duration,
    requests: VecDeque<Duration>,
    /// The request that may be repeated.
    last: Option<Duration>,
}

impl Pace {
    /// A process starts.
    pub fn started(&mut self, now: Duration) {
        self.starts.push_back(now);
    }

    /// A client succeeded.
    pub fn succeeded(&mut self, client: &Client) {
        self.waiting.remove(client);
    }

    /// A client sends a request; `processes` do so independently. `is_repeatable`: with a refresh token.
    ///
    /// # Errors
    ///
    /// Too many requests in ten minutes.
    pub fn asks(
        &mut self,
        client: Client,
        is_repeatable: bool,
        now: Duration,
        processes: usize,
    ) -> Result<(), usize> {
        let waiting = self.waiting.entry(client).or_insert_with(|| Waiting {
            since: now,
            requests: VecDeque::new(),
            last: None,
        });
        let last = waiting.last.take();
        if is_repeatable && last.is_some_and(|last| now <= last + REPEATED_WITHIN) {
            return Ok(());
        }
        waiting.last = is_repeatable.then_some(now);
        waiting.requests.push_back(now);
        forget(&mut waiting.requests, now, WINDOW);
        forget(&mut self.starts, now, WINDOW + LEARNS);
        let minutes = usize::try_from(WINDOW.as_secs() / 60).unwrap_or_default();
        // One more at each end of the window.
        let most = (PER_MINUTE * minutes + 1) * processes + PER_START * self.starts.len();
        if now.saturating_sub(waiting.since) >= LONG && waiting.requests.len() > most {
            return Err(waiting.requests.len());
        }
        Ok(())
    }
}

fn forget(times: &mut VecDeque<Duration>, now: Duration, after: Duration) {
    while times.front().is_some_and(|at| *at + after < now) {
        times.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn too_often(every_s: u64) -> bool {
        let mut pace = Pace::default();
        let client = || (0, "c".to_owned());
        (0..7200 / every_s).any(|nth| {
            let now = Duration::from_secs(nth * every_s);
            pace.asks(client(), false, now, 1).is_err()
        })
    }

    #[test]
    fn two_requests_a_minute_are_borne_in_a_long_outage_and_three_are_not() {
        assert!(!too_often(31));
        assert!(too_often(20));
    }

    #[test]
    fn whoever_starts_in_an_outage_learns_of_it_by_asking() {
        let mut pace = Pace::default();
        let client = || (0, "c".to_owned());
        let s = Duration::from_secs;
        for nth in 0..=60 {
            assert_eq!(pace.asks(client(), false, s(nth * 31), 1), Ok(()));
        }
        pace.started(s(1890));
        for at in (1890..1950).step_by(10).chain((1980..3000).step_by(31)) {
            assert_eq!(pace.asks(client(), false, s(at), 1), Ok(()), "{at}");
        }
    }

    #[test]
    fn a_repetition_counts_with_what_it_repeats_and_a_second_one_for_itself() {
        let too_often = |at_once: u64, is_repeatable| {
            let mut pace = Pace::default();
            let times =
                (0..200).flat_map(|nth| (0..at_once).map(move |again| nth * 31 + again * 2));
            times.into_iter().any(|at| {
                let client = (0, "c".to_owned());
                let now = Duration::from_secs(at);
                pace.asks(client, is_repeatable, now, 1).is_err()
            })
        };
        assert!(!too_often(2, true));
        assert!(too_often(3, true));
        assert!(too_often(2, false));
    }

    #[test]
    fn success_ends_the_outage() {
        let mut pace = Pace::default();
        let client = (0, "c".to_owned());
        for nth in 0..7200 {
            let now = Duration::from_secs(nth);
            assert_eq!(pace.asks(client.clone(), false, now, 1), Ok(()));
            if nth % 600 == 0 {
                pace.succeeded(&client);
            }
        }
    }
}
