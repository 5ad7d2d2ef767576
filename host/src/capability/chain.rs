//! The stored state of a chain: the newest value of a rotating secret, the state of the values before it, and the exchange under
//! way. All changes to it are decided here, without a clock, a store or a network; the caller stores the result atomically.

use std::fmt;
use std::time::Duration;

use data_encoding::HEXLOWER;
use secrecy::{ExposeSecret, SecretSlice};
use serde::{Deserialize, Serialize};

use super::arrived::Arrived;
use crate::model::failure::HostCode;
use crate::model::time::Timestamp;
use crate::model::{JobId, RetryUnanswered};
use crate::serde_secret;

/// Requests that may carry one generation in quick succession, as long as none is answered. The second one uses the grace that
/// many issuers give to a repeated refresh token; a third would gain nothing.
pub const ATTEMPTS_AT_ONCE: u32 = 2;

/// The least time between any two requests with one value. A request that was cut off may still be on its way: if its repetition
/// overtakes it, the issuer sees it as a replay of a spent value, and revokes the chain whose answer has just come.
pub const OVERTAKEN_WITHIN: Duration = Duration::from_secs(2);

/// The least time between further ones. If the value was spent, its successor is lost already and nothing that is sent makes it
/// worse; if it was not, the issuer is unavailable, and the chain should be fresh soon after it is back. So the wait does not
/// grow.
const DOUBT: Duration = Duration::from_secs(30);

/// How often a source is called with an answer that it cannot use. With the back-off after an internal failure that is half an
/// hour, in which plugin or configuration may be corrected. A job must not wait for a person: after that the host takes the
/// refresh token that it finds in the answer as the successor, and an answer without one counts as one that never came.
pub const MAX_REPLAYS: u32 = 8;

/// Bytes of an unread answer that are kept beside what comes after it. Token answers have a few KiB.
const MAX_UNREAD_BYTES: usize = 16 * 1024;

/// How far the clocks of two processes on one store may differ: another process's intent is left alone for so long beyond its
/// end. NTP keeps machines within a second; ten seconds are a drifting clock that was not noticed.
pub const CLOCK_SKEW: Duration = Duration::from_secs(10);

/// Which chain it is: a keyed fingerprint of the first value that was seen of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ChainId(pub [u8; 16]);

/// In hexadecimal: a name that may be shown.
impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A process, from its start to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder(pub [u8; 16]);

/// A rotating secret through all its values. The order of the fields is the storage format, here and in what follows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Chain {
    /// Its id.
    pub id: ChainId,
    /// Counts the values, from 0.
    pub generation: u64,
    /// The newest value.
    #[serde(with = "serde_secret::bytes")]
    pub value: SecretSlice<u8>,
    /// When the newest value expires, where the issuer said so.
    pub expires_at: Option<Timestamp>,
    /// Since when the issuer has rejected all of its values; none: it is valid.
    pub dead_since: Option<Timestamp>,
    /// The issuer's reason for that; none: it is valid, or the issuer gave none.
    pub dead_reason: Option<String>,
    /// Requests with the newest value whose answer is unknown.
    pub unanswered: u32,
    /// When the last of these was about to be sent.
    pub last_sent: Option<Timestamp>,
    /// The exchange under way with the newest value.
    pub exchange: Option<Exchange>,
    /// The last exchange with the newest value whose answer came and could not be read, but perhaps by a later version.
    pub unread: Option<Exchange>,
    /// A random id of the change that made it so: it distinguishes a write of our own whose acknowledgement was lost from one of
    /// another process.
    pub change: [u8; 16],
}

impl Chain {
    /// Bytes of the values and answers in it.
    #[must_use]
    pub fn size(&self) -> usize {
        let exchanges = [&self.exchange, &self.unread].into_iter().flatten();
        let answers = exchanges.flat_map(|exchange| [&exchange.arriving, &exchange.answer]);
        let answers = answers.flatten();
        let in_answers: usize = answers.map(|answer| answer.bytes.len()).sum();
        self.value.expose_secret().len() + in_answers
    }
}

/// A request that carries the newest value: about to be sent, sent, or answered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Exchange {
    /// The intent that was stored before it was sent.
    pub intent: Intent,
    /// The part of the answer that had arrived when the rest was late; none once the answer is complete.
    pub arriving: Option<Arrived>,
    /// The answer, perhaps with the only copy of the successor.
    pub answer: Option<Arrived>,
    /// How often the source was called with the answer and could not use it.
    pub failed_replays: u32,
}

/// The record that is made durable before a request is sent that carries a rotating secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Intent {
    /// The process that sends it.
    pub holder: Holder,
    /// When it was written.
    pub written_at: Timestamp,
    /// When its holder gives it up, whatever the outcome.
    pub not_after: Timestamp,
    /// The request's method.
    pub method: String,
    /// Its URL, without the query, which may have secrets in it.
    pub url: String,
    /// The job whose source sends it.
    pub job: JobId,
    /// The component that composes it.
    pub plugin: PluginId,
    /// The source's configuration, with which its answer can be read.
    #[serde(with = "serde_secret::json")]
    pub config: serde_json::Value,
}

/// A component, as an intent names it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginId {
    /// As jobs name it.
    pub name: String,
    /// SHA-256 of its bytes.
    pub digest: [u8; 32],
    /// The interface version that it was made for, e.g. `0.1`.
    pub interface: String,
}

/// What to do about a chain before a source is called that uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// Nothing: the newest value may be sent.
    Free,
    /// The source is called with the stored answer.
    Replay,
    /// Another process may still send, or has just sent.
    InUse {
        /// When its intent is over, with an allowance for clocks that differ.
        until: Timestamp,
    },
    /// Requests went unanswered; the next one must wait.
    InDoubt {
        /// When.
        until: Timestamp,
    },
    /// Requests went unanswered, and the job's configuration allows no further ones.
    NeedsAttention,
    /// The issuer rejects all of its values.
    Dead,
}

/// The condition of a chain, for status and metrics, from the best to the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChainState {
    /// No problem is known.
    Ok,
    /// Its newest value was sent without an answer, so it may be spent.
    InDoubt,
    /// An answer is stored that the plugin cannot read, or the chain comes from a copy of the state store: `evertoken state`
    /// resolves both.
    NeedsAttention,
    /// The issuer rejects it: a new login is needed.
    Dead,
}

impl ChainState {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Ok, Self::InDoubt, Self::NeedsAttention, Self::Dead];

    /// The state by the code of the failure to use the chain, if that failed.
    #[must_use]
    pub fn of(code: Option<HostCode>) -> Self {
        match code {
            Some(HostCode::ChainInDoubt) => Self::InDoubt,
            Some(HostCode::ChainNeedsAttention | HostCode::ChainRestored) => Self::NeedsAttention,
            Some(HostCode::ChainDead) => Self::Dead,
            _ => Self::Ok,
        }
    }

    /// Its name in status and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::InDoubt => "in-doubt",
            Self::NeedsAttention => "needs-attention",
            Self::Dead => "dead",
        }
    }
}

impl fmt::Display for ChainState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Chain {
    /// A chain that begins with this value.
    #[must_use]
    pub fn new(id: ChainId, value: SecretSlice<u8>) -> Self {
        Self {
            id,
            generation: 0,
            value,
            expires_at: None,
            dead_since: None,
            dead_reason: None,
            unanswered: 0,
            last_sent: None,
            exchange: None,
            unread: None,
            change: [0; 16],
        }
    }

    /// What to do before its newest value may be sent. `alone`: no other process can use the store, so an intent that is not ours
    /// belongs to a process that has ended.
    #[must_use]
    pub fn settlement(
        &self,
        us: Holder,
        alone: bool,
        retry: RetryUnanswered,
        now: Timestamp,
    ) -> Settlement {
        if self.dead_since.is_some() {
            return Settlement::Dead;
        }
        match &self.exchange {
            Some(exchange) if exchange.waits_for_the_source() => Settlement::Replay,
            Some(exchange) if exchange.intent.is_foreign_at(us, alone, now) => Settlement::InUse {
                until: exchange.intent.not_after.after(CLOCK_SKEW),
            },
            _ => self.after_unanswered(retry, now),
        }
    }

    /// The state by the chain's record. A request that may still be answered, and an answer that the source has not yet failed to
    /// read, are no problem.
    #[must_use]
    pub fn state(
        &self,
        us: Holder,
        alone: bool,
        retry: RetryUnanswered,
        now: Timestamp,
    ) -> ChainState {
        let exchange = self.exchange.as_ref();
        match self.settlement(us, alone, retry, now) {
            Settlement::Dead => ChainState::Dead,
            _ if exchange.is_some_and(|exchange| exchange.is_under_way(us, now)) => {
                let went_unanswered_before = self.unanswered > 1;
                if went_unanswered_before {
                    ChainState::InDoubt
                } else {
                    ChainState::Ok
                }
            }
            Settlement::NeedsAttention => ChainState::NeedsAttention,
            Settlement::Replay if exchange.is_some_and(|exchange| exchange.failed_replays > 0) => {
                ChainState::NeedsAttention
            }
            Settlement::Free | Settlement::InDoubt { .. } if self.unanswered > 0 => {
                ChainState::InDoubt
            }
            Settlement::Free
            | Settlement::InDoubt { .. }
            | Settlement::Replay
            | Settlement::InUse { .. } => ChainState::Ok,
        }
    }

    fn after_unanswered(&self, retry: RetryUnanswered, now: Timestamp) -> Settlement {
        let (Some(last_sent), 1..) = (self.last_sent, self.unanswered) else {
            return Settlement::Free;
        };
        let wait = match retry {
            RetryUnanswered::Never => return Settlement::NeedsAttention,
            RetryUnanswered::AtOnce => Duration::ZERO,
            RetryUnanswered::After(wait) => wait,
        };
        let doubt = if self.unanswered < ATTEMPTS_AT_ONCE {
            OVERTAKEN_WITHIN
        } else {
            DOUBT
        };
        let until = last_sent.after(wait.max(doubt));
        // A clock that was set back must not make the wait longer than it is.
        if until <= now || last_sent > now.after(CLOCK_SKEW) {
            Settlement::Free
        } else {
            Settlement::InDoubt { until }
        }
    }

    /// The newest value is about to be sent: an answer is missing from now on.
    #[must_use]
    pub fn intending(&self, intent: Intent) -> Self {
        Self {
            unanswered: self.unanswered.saturating_add(1),
            last_sent: Some(intent.written_at),
            exchange: Some(Exchange {
                intent,
                arriving: None,
                answer: None,
                failed_replays: 0,
            }),
            unread: self.unread_exchange(),
            ..self.clone()
        }
    }

    fn unread_exchange(&self) -> Option<Exchange> {
        let given_up = self.exchange.clone().filter(Exchange::may_be_read_later);
        given_up.or_else(|| self.unread.clone())
    }

    /// Nothing of the request left this machine, so it does not count.
    #[must_use]
    pub fn unsent(&self) -> Self {
        Self {
            unanswered: self.unanswered.saturating_sub(1),
            exchange: None,
            ..self.clone()
        }
    }

    /// The issuer answered without taking the value, so it can be sent again.
    #[must_use]
    pub fn unspent(&self) -> Self {
        Self {
            unanswered: 0,
            exchange: None,
            unread: None,
            ..self.clone()
        }
    }

    /// Whether the issuer took the request is unknown: no answer came, or an answer that does not say it.
    #[must_use]
    pub fn in_doubt(&self, answer: Arrived) -> Self {
        let answered = self.answered(answer);
        Self {
            exchange: None,
            unread: answered.unread_exchange(),
            ..self.clone()
        }
    }

    /// The answer that could not be read now can: it waits for the source, whatever the outcome of the requests after it.
    #[must_use]
    pub fn understood(&self) -> Self {
        Self {
            dead_since: None,
            dead_reason: None,
            exchange: self.unread.clone(),
            unread: None,
            ..self.clone()
        }
    }

    /// A part of the answer came, and the rest is late.
    #[must_use]
    pub fn arriving(&self, so_far: Arrived) -> Self {
        let exchange = self.exchange.clone().map(|exchange| Exchange {
            arriving: Some(so_far),
            ..exchange
        });
        Self {
            exchange,
            ..self.clone()
        }
    }

    /// The partial answer whose receiver no longer waits for the rest: its process has ended, or its time is over.
    #[must_use]
    pub fn left_behind(
        &self,
        us: Holder,
        alone: bool,
        now: Timestamp,
    ) -> Option<(&Intent, &Arrived)> {
        let exchange = self.exchange.as_ref().filter(|e| e.answer.is_none())?;
        let came = exchange.arriving.as_ref()?;
        let is_over = !exchange.intent.is_foreign_at(us, alone, now);
        is_over.then_some((&exchange.intent, came))
    }

    /// The answer came.
    #[must_use]
    pub fn answered(&self, answer: Arrived) -> Self {
        let exchange = self.exchange.clone().map(|exchange| Exchange {
            arriving: None,
            answer: Some(answer),
            ..exchange
        });
        Self {
            exchange,
            ..self.clone()
        }
    }

    /// This chain's answer applied to what another process made of the chain while the store was failing: that process sent the
    /// value again, or was told that it is spent, and in either case the successor is in this answer. None: the other process has
    /// another value or an answer, so it has the successor.
    #[must_use]
    pub fn answering(&self, theirs: &Self) -> Option<Self> {
        let is_open = theirs.generation == self.generation
            && theirs.has_newest(self.value.expose_secret())
            && theirs.answer().is_none();
        is_open.then(|| Self {
            dead_since: None,
            dead_reason: None,
            exchange: self.exchange.clone(),
            ..theirs.clone()
        })
    }

    /// Whether another process has sent a request and stored nothing since; `alone` as for [`settlement`](Self::settlement).
    #[must_use]
    pub fn is_left_open_by_another(&self, us: Holder, alone: bool) -> bool {
        let open = self.exchange.as_ref().filter(|e| e.answer.is_none());
        !alone && open.is_some_and(|exchange| exchange.intent.holder != us)
    }

    /// The source could not use the answer, which stays. That the answer is from the future can only be seen until the clock has
    /// reached its time, so it is recorded.
    #[must_use]
    pub fn unread(&self, now: Timestamp) -> Self {
        let exchange = self.exchange.clone().map(|exchange| Exchange {
            failed_replays: exchange.failed_replays.saturating_add(1),
            answer: exchange
                .answer
                .map(|answer| as_old_as_it_may_be(answer, now)),
            ..exchange
        });
        Self {
            exchange,
            ..self.clone()
        }
    }

    /// The issuer rejects all of its values from now on.
    #[must_use]
    pub fn died(&self, now: Timestamp, reason: Option<String>) -> Self {
        Self {
            dead_since: Some(now),
            dead_reason: reason,
            exchange: None,
            ..self.clone()
        }
    }

    /// The next value, from the issuer or from a person; an open exchange is closed.
    #[must_use]
    pub fn succeeded_by(&self, value: SecretSlice<u8>, expires_at: Option<Timestamp>) -> Self {
        Self {
            generation: self.generation.saturating_add(1),
            value,
            expires_at,
            dead_since: None,
            dead_reason: None,
            unanswered: 0,
            last_sent: None,
            exchange: None,
            unread: None,
            id: self.id,
            change: self.change,
        }
    }

    /// Whether `value` is the newest one.
    #[must_use]
    pub fn has_newest(&self, value: &[u8]) -> bool {
        self.value.expose_secret() == value
    }

    /// The answer that waits for the source, if there is one.
    #[must_use]
    pub fn answer(&self) -> Option<&Arrived> {
        let waits = self.exchange.as_ref().filter(|e| e.waits_for_the_source());
        waits?.answer.as_ref()
    }
}

impl Exchange {
    /// Whether its answer is stored and the source is still called with it.
    #[must_use]
    pub fn waits_for_the_source(&self) -> bool {
        self.answer.is_some() && self.failed_replays < MAX_REPLAYS
    }

    /// Whether it is our own request, and an answer may still come.
    fn is_under_way(&self, us: Holder, now: Timestamp) -> bool {
        self.answer.is_none() && self.intent.holder == us && now < self.intent.not_after
    }

    /// The answer that the source could not use in all its tries.
    #[must_use]
    pub fn given_up(&self) -> Option<&Arrived> {
        self.answer
            .as_ref()
            .filter(|_| !self.waits_for_the_source())
    }

    fn may_be_read_later(&self) -> bool {
        let bytes = self.answer.as_ref().map_or(0, |answer| answer.bytes.len());
        (1..=MAX_UNREAD_BYTES).contains(&bytes)
    }
}

/// An answer from the future means that the clock was set back since, so its age is unknown: it counts as older than any token
/// lasts, so that its successor is kept and its token is requested anew.
#[must_use]
pub fn as_old_as_it_may_be(answer: Arrived, now: Timestamp) -> Arrived {
    let sent_at = if answer.sent_at > now {
        Timestamp(0)
    } else {
        answer.sent_at
    };
    Arrived { sent_at, ..answer }
}

impl Intent {
    fn is_foreign_at(&self, us: Holder, alone: bool, now: Timestamp) -> bool {
        !alone && self.holder != us && now < self.not_after.after(CLOCK_SKEW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Holder = Holder([1; 16]);
    const OTHERS: Holder = Holder([2; 16]);
    const NOW: Timestamp = Timestamp(1_700_000_000_000);

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn chain() -> Chain {
        Chain::new(ChainId([7; 16]), SecretSlice::from(b"seed".to_vec()))
    }

    fn intent(holder: Holder, written_at: Timestamp) -> Intent {
        Intent {
            holder,
            written_at,
            not_after: written_at.after(s(60)),
            method: "POST".to_owned(),
            url: "https://idp/token".to_owned(),
            job: JobId::file("job"),
            plugin: PluginId::default(),
            config: serde_json::Value::Null,
        }
    }

    fn answer() -> Arrived {
        Arrived {
            sent_at: NOW,
            bytes: b"HTTP/1.1 200 OK".to_vec(),
        }
    }

    fn nothing() -> Arrived {
        Arrived::nothing_yet(NOW)
    }

    /// A chain whose newest value was sent so often without an answer, the last time at NOW.
    fn unanswered(times: u32) -> Chain {
        (0..times).fold(chain(), |chain, _| {
            chain.intending(intent(US, NOW)).in_doubt(nothing())
        })
    }

    #[test]
    fn what_is_done_before_a_value_is_sent_depends_on_what_became_of_it_before() {
        use RetryUnanswered::{After, AtOnce, Never};
        use Settlement::{Dead, Free, InDoubt, InUse, NeedsAttention, Replay};
        let sent = |holder| chain().intending(intent(holder, NOW));
        let in_doubt = |wait| InDoubt {
            until: NOW.after(s(wait)),
        };
        for (what, chain, alone, retry, later, expected) in [
            ("new", chain(), false, AtOnce, 0, Free),
            (
                "answered",
                sent(US).answered(answer()),
                false,
                AtOnce,
                0,
                Replay,
            ),
            (
                "answered to others",
                sent(OTHERS).answered(answer()),
                false,
                AtOnce,
                0,
                Replay,
            ),
            ("ours, unanswered", sent(US), false, AtOnce, 1, in_doubt(2)),
            (
                "ours, unanswered for a while",
                sent(US),
                false,
                AtOnce,
                2,
                Free,
            ),
            (
                "others', under way",
                sent(OTHERS),
                false,
                AtOnce,
                0,
                InUse {
                    until: NOW.after(s(70)),
                },
            ),
            (
                "others', within the skew",
                sent(OTHERS),
                false,
                AtOnce,
                69,
                InUse {
                    until: NOW.after(s(70)),
                },
            ),
            ("others', over", sent(OTHERS), false, AtOnce, 70, Free),
            (
                "a dead process's",
                sent(OTHERS),
                true,
                AtOnce,
                1,
                in_doubt(2),
            ),
            (
                "a dead process's, later",
                sent(OTHERS),
                true,
                AtOnce,
                2,
                Free,
            ),
            ("once", unanswered(1), true, AtOnce, 1, in_doubt(2)),
            ("once, a little later", unanswered(1), true, AtOnce, 2, Free),
            (
                "once, to be repeated later",
                unanswered(1),
                true,
                After(s(20)),
                19,
                in_doubt(20),
            ),
            ("once, later", unanswered(1), true, After(s(20)), 20, Free),
            (
                "once, not to be repeated",
                unanswered(1),
                true,
                Never,
                1000,
                NeedsAttention,
            ),
            ("twice", unanswered(2), true, AtOnce, 29, in_doubt(30)),
            ("twice, later", unanswered(2), true, AtOnce, 30, Free),
            ("often", unanswered(50), true, AtOnce, 30, Free),
            ("dead", sent(US).died(NOW, None), true, AtOnce, 1000, Dead),
        ] {
            let found = chain.settlement(US, alone, retry, NOW.after(s(later)));
            assert_eq!(found, expected, "{what}");
        }
    }

    #[test]
    fn an_answer_that_was_from_the_future_once_is_never_young_again() {
        let answered = chain().intending(intent(US, NOW)).answered(answer());
        let sent_at = |chain: &Chain| chain.answer().unwrap().sent_at;
        for (now, expected) in [
            (NOW.before(s(1)), Timestamp(0)),
            (NOW, NOW),
            (NOW.after(s(3600)), NOW),
        ] {
            let unread = answered.unread(now).unread(NOW.after(s(7200)));
            assert_eq!(sent_at(&unread), expected, "{now}");
        }
    }

    #[test]
    fn a_part_of_an_answer_is_left_behind_once_nobody_waits_for_the_rest() {
        let sent = |holder| chain().intending(intent(holder, NOW));
        for (what, chain, alone, later, expected) in [
            ("nothing came", sent(US), true, 0, None),
            (
                "ours",
                sent(US).arriving(answer()),
                false,
                0,
                Some(answer()),
            ),
            (
                "others', under way",
                sent(OTHERS).arriving(answer()),
                false,
                69,
                None,
            ),
            (
                "others', over",
                sent(OTHERS).arriving(answer()),
                false,
                70,
                Some(answer()),
            ),
            (
                "a dead process's",
                sent(OTHERS).arriving(answer()),
                true,
                0,
                Some(answer()),
            ),
            (
                "all came",
                sent(US).arriving(nothing()).answered(answer()),
                true,
                0,
                None,
            ),
            (
                "sent again",
                sent(US).arriving(answer()).intending(intent(US, NOW)),
                true,
                0,
                None,
            ),
        ] {
            let left = chain.left_behind(US, alone, NOW.after(s(later)));
            assert_eq!(left.map(|(_, came)| came.clone()), expected, "{what}");
            let waits =
                chain.settlement(US, true, RetryUnanswered::AtOnce, NOW) == Settlement::Replay;
            assert_eq!(waits, what == "all came", "{what}: a part is no answer");
        }
        let size = sent(US).arriving(answer()).size() - sent(US).size();
        assert_eq!(size, answer().bytes.len());
    }

    #[test]
    fn a_clock_that_was_set_back_makes_no_wait_longer() {
        let before = NOW.before(s(86_400));
        let found = unanswered(2).settlement(US, true, RetryUnanswered::AtOnce, before);
        assert_eq!(found, Settlement::Free);
    }

    #[test]
    fn only_requests_that_left_and_were_not_answered_count() {
        let sent = unanswered(1).intending(intent(US, NOW));
        assert_eq!(sent.unanswered, 2);
        assert_eq!(sent.unsent().unanswered, 1);
        assert_eq!(sent.in_doubt(nothing()).unanswered, 2);
        assert_eq!(sent.unspent().unanswered, 0);
        let next = sent.succeeded_by(b"next".to_vec().into(), None);
        assert_eq!((next.unanswered, next.generation), (0, 1));
        for closed in [
            sent.unsent(),
            sent.in_doubt(nothing()),
            sent.unspent(),
            next,
        ] {
            assert!(closed.exchange.is_none());
        }
    }

    #[test]
    fn an_answer_that_the_source_cannot_use_counts_as_none_after_a_while_and_is_kept() {
        let answered = chain().intending(intent(US, NOW)).answered(answer());
        let given_up = (0..MAX_REPLAYS).fold(answered, |chain, _| {
            let settlement = chain.settlement(US, true, RetryUnanswered::AtOnce, NOW);
            assert_eq!(settlement, Settlement::Replay);
            chain.unread(NOW)
        });
        let later = NOW.after(s(60));
        let settlement = given_up.settlement(US, true, RetryUnanswered::AtOnce, later);
        assert_eq!(settlement, Settlement::Free);
        assert!(given_up.answer().is_none());
        let again = given_up.intending(intent(US, later));
        assert_eq!(again.unread.as_ref().unwrap().answer, Some(answer()));
        for (what, chain, is_kept) in [
            ("lost", again.in_doubt(nothing()), true),
            ("dead", again.died(later, None), true),
            ("unsent", again.unsent(), true),
            ("unspent", again.unspent(), false),
            (
                "new",
                again.succeeded_by(b"next".to_vec().into(), None),
                false,
            ),
        ] {
            assert_eq!(chain.unread.is_some(), is_kept, "{what}");
        }
        let understood = again.died(later, None).understood();
        assert_eq!(understood.dead_since, None);
        assert!(understood.unread.is_none() && understood.exchange.unwrap().answer.is_some());
    }

    #[test]
    fn of_an_answer_that_says_nothing_what_came_is_kept() {
        let sent = chain().intending(intent(US, NOW));
        let unread = |answer| sent.in_doubt(answer).unread;
        assert_eq!(unread(answer()).unwrap().answer, Some(answer()));
        assert!(unread(nothing()).is_none());
        let bytes = vec![b'a'; MAX_UNREAD_BYTES + 1];
        assert!(
            unread(Arrived { bytes, ..answer() }).is_none(),
            "too much beside another"
        );
        let earlier = sent.in_doubt(answer()).intending(intent(US, NOW));
        assert!(earlier.in_doubt(nothing()).unread.is_some());
    }

    #[test]
    fn a_new_value_brings_a_dead_chain_back_to_life() {
        let next = chain()
            .died(NOW, Some("invalid_grant".to_owned()))
            .succeeded_by(b"next".to_vec().into(), None);
        assert_eq!((next.dead_since, &next.dead_reason), (None, &None));
        assert!(next.has_newest(b"next"));
    }

    #[test]
    fn a_failure_to_use_a_chain_says_what_became_of_it() {
        for (code, expected) in [
            (None, "ok"),
            (Some(HostCode::HttpConnect), "ok"),
            (Some(HostCode::ChainInDoubt), "in-doubt"),
            (Some(HostCode::ChainNeedsAttention), "needs-attention"),
            (Some(HostCode::ChainRestored), "needs-attention"),
            (Some(HostCode::ChainDead), "dead"),
        ] {
            let state = ChainState::of(code);
            assert_eq!(state.as_str(), expected);
            assert_eq!(serde_json::to_value(state).unwrap(), expected);
        }
    }

    #[test]
    fn a_record_says_what_became_of_its_chain() {
        use RetryUnanswered::{AtOnce, Never};
        let waits = chain().intending(intent(US, NOW)).answered(answer());
        let lost_by_others = chain().intending(intent(OTHERS, NOW));
        let asking = chain().intending(intent(US, NOW));
        let asking_again = unanswered(1).intending(intent(US, NOW));
        let later = NOW.after(s(600));
        for (what, chain, alone, retry, now, expected) in [
            ("new", chain(), true, AtOnce, NOW, ChainState::Ok),
            (
                "lost",
                unanswered(1),
                true,
                AtOnce,
                later,
                ChainState::InDoubt,
            ),
            (
                "lost often",
                unanswered(5),
                true,
                AtOnce,
                NOW,
                ChainState::InDoubt,
            ),
            (
                "no more",
                unanswered(1),
                true,
                Never,
                NOW,
                ChainState::NeedsAttention,
            ),
            (
                "waits for the source",
                waits.clone(),
                true,
                AtOnce,
                NOW,
                ChainState::Ok,
            ),
            (
                "not read",
                waits.unread(NOW),
                true,
                AtOnce,
                NOW,
                ChainState::NeedsAttention,
            ),
            (
                "under way",
                asking.clone(),
                true,
                AtOnce,
                NOW,
                ChainState::Ok,
            ),
            (
                "under way, and not to be sent again",
                asking.clone(),
                true,
                Never,
                NOW,
                ChainState::Ok,
            ),
            (
                "its time is over",
                asking,
                true,
                AtOnce,
                later,
                ChainState::InDoubt,
            ),
            (
                "under way after one was lost",
                asking_again,
                true,
                AtOnce,
                NOW,
                ChainState::InDoubt,
            ),
            (
                "under way elsewhere",
                lost_by_others.clone(),
                false,
                AtOnce,
                NOW,
                ChainState::Ok,
            ),
            (
                "lost elsewhere",
                lost_by_others.clone(),
                false,
                AtOnce,
                later,
                ChainState::InDoubt,
            ),
            (
                "of a former process",
                lost_by_others,
                true,
                AtOnce,
                NOW,
                ChainState::InDoubt,
            ),
            (
                "dead",
                chain().died(NOW, None),
                true,
                Never,
                NOW,
                ChainState::Dead,
            ),
        ] {
            assert_eq!(chain.state(US, alone, retry, now), expected, "{what}");
        }
    }

    #[test]
    fn neither_values_nor_answers_are_shown() {
        let shown = format!(
            "{:?}",
            chain().intending(intent(US, NOW)).answered(answer())
        );
        assert!(
            !shown.contains("seed") && !shown.contains("HTTP"),
            "{shown}"
        );
    }
}
