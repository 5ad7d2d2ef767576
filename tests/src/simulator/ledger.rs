//! The ledger of refresh tokens: each request with one, and the fate of its answer. It determines the cause of a family's
//! revocation, and detects a refresh token that should not have been sent. No clock, no network: only the order of events.

use std::collections::BTreeSet;
use std::time::Duration;

use super::issuer::{Effect, Link};
use super::world::EXCHANGE;

/// The longest duration of the one write between the arrival of an answer and its durability, while the store works; a process
/// killed within it loses the answer inevitably.
pub const UNAVOIDABLE: Duration = Duration::from_millis(25);

/// A refresh token: its issuer, and its link in the family.
pub type Token = (usize, Link);

/// The index of a request with a refresh token in the ledger.
pub type Id = usize;

/// One start of a process.
pub type Life = u32;

/// The fate of an answer with a successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It, or its request, is under way.
    Open,
    /// It was lost: by the network, with the death of its receiver, or by taking longer than any timeout.
    Lost,
    /// Its receiver stopped waiting without a valid reason.
    Abandoned,
    /// It arrived.
    Arrived(Duration),
    /// It arrived, and its receiver was killed within the write that makes it durable, or the store refused that write for so
    /// long that another process had to take over.
    Unavoidable,
    /// The source has received it: from then on it must survive everything.
    Seen,
}

#[derive(Debug, Clone, Copy)]
struct Exchange {
    token: Token,
    life: Life,
    sent: Duration,
    /// The answer has the token's successor in it.
    has_successor: bool,
    fate: Fate,
}

/// The ledger.
#[derive(Debug, Default)]
pub struct Ledger {
    exchanges: Vec<Exchange>,
    /// Refresh tokens whose successor a process received.
    answered: BTreeSet<Token>,
    /// Refresh tokens whose refusal a process received.
    refused: BTreeSet<Token>,
}

/// The cause of a revocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The only answers with the successor were lost before they reached a process.
    Excused,
    /// A process had the successor.
    WeHadTheSuccessor,
    /// An answer arrived and was not stored.
    NotKept,
    /// A process stopped waiting.
    StoppedListening,
}

impl Ledger {
    /// A request with this refresh token is sent. `store_refuses`: since the last request with it, the store has refused all
    /// writes of one of the processes.
    ///
    /// # Errors
    /// It should not have been sent; it is recorded all the same.
    pub fn sent(
        &mut self,
        token: Token,
        life: Life,
        now: Duration,
        store_refuses: bool,
    ) -> (Id, Result<(), &'static str>) {
        if store_refuses {
            self.taken_over(token, life, now);
        }
        self.exchanges.push(Exchange {
            token,
            life,
            sent: now,
            has_successor: false,
            fate: Fate::Open,
        });
        let judged = if self.answered.contains(&token) {
            Err("a refresh token whose successor we had was sent again")
        } else if self.refused.contains(&token) {
            Err("a chain that was declared dead was sent again")
        } else {
            Ok(())
        };
        (self.exchanges.len() - 1, judged)
    }

    /// A process that could not store an answer until its intent expired had no way to inform the other process of it.
    fn taken_over(&mut self, token: Token, life: Life, now: Duration) {
        let others = self.exchanges.iter_mut();
        for exchange in others.filter(|e| e.token == token && e.life != life) {
            if matches!(exchange.fate, Fate::Arrived(_)) && now >= exchange.sent + EXCHANGE {
                exchange.fate = Fate::Unavoidable;
            }
        }
    }

    /// The issuer has handled it.
    pub fn dealt_with(&mut self, id: Id, effect: Effect) {
        if let Some(exchange) = self.exchanges.get_mut(id) {
            exchange.has_successor = matches!(effect, Effect::Rotated(_) | Effect::Repeated(_));
        }
    }

    /// The answer is lost.
    pub fn lost(&mut self, id: Id) {
        self.set(id, Fate::Lost);
    }

    /// The receiver stopped waiting, although it was alive and the answer was not late.
    pub fn abandoned(&mut self, id: Id) {
        self.set(id, Fate::Abandoned);
    }

    /// The answer arrived.
    pub fn arrived(&mut self, id: Id, now: Duration) {
        self.set(id, Fate::Arrived(now));
    }

    /// The source has received the answer.
    pub fn seen(&mut self, id: Id) {
        self.set(id, Fate::Seen);
        if let Some(exchange) = self.exchanges.get(id)
            && exchange.has_successor
        {
            self.answered.insert(exchange.token);
        }
    }

    /// The source has received the refusal of this token.
    pub fn refused(&mut self, id: Id) {
        if let Some(exchange) = self.exchanges.get(id) {
            self.refused.insert(exchange.token);
        }
    }

    /// A process was killed; `store_failed`: since when the store has refused all writes.
    pub fn killed(&mut self, life: Life, now: Duration, store_failed: Option<Duration>) {
        for exchange in self.exchanges.iter_mut().filter(|e| e.life == life) {
            exchange.fate = match exchange.fate {
                Fate::Open => Fate::Lost,
                Fate::Arrived(at)
                    if now <= at + UNAVOIDABLE
                        || store_failed.is_some_and(|since| since <= at + UNAVOIDABLE) =>
                {
                    Fate::Unavoidable
                }
                fate => fate,
            };
        }
    }

    /// Unanswered requests of this process.
    #[must_use]
    pub fn open(&self, life: Life) -> usize {
        let of_life = self.exchanges.iter().filter(|e| e.life == life);
        of_life.filter(|e| e.fate == Fate::Open).count()
    }

    /// The issuer revoked a family because this refresh token was repeated: determines the cause.
    #[must_use]
    pub fn judge(&self, token: Token) -> Verdict {
        let with_successor = self
            .exchanges
            .iter()
            .filter(|e| e.token == token && e.has_successor);
        let mut verdict = Verdict::Excused;
        for exchange in with_successor {
            match exchange.fate {
                Fate::Seen => return Verdict::WeHadTheSuccessor,
                Fate::Arrived(_) => verdict = Verdict::NotKept,
                Fate::Abandoned => verdict = Verdict::StoppedListening,
                Fate::Open | Fate::Lost | Fate::Unavoidable => {}
            }
        }
        verdict
    }

    /// An answer that was inevitably lost when the token was sent again stays so even if it is stored after all, which was too
    /// late. That does not excuse a third request, see [`sent`](Self::sent).
    fn set(&mut self, id: Id, fate: Fate) {
        if let Some(exchange) = self.exchanges.get_mut(id)
            && !matches!(exchange.fate, Fate::Seen | Fate::Unavoidable)
        {
            exchange.fate = fate;
        }
    }
}

impl Verdict {
    /// The violation in a sentence; none: there is none.
    #[must_use]
    pub const fn sentence(self) -> Option<&'static str> {
        match self {
            Self::Excused => None,
            Self::WeHadTheSuccessor => Some(
                "a chain died by our hand: a refresh token was repeated although its successor was ours",
            ),
            Self::NotKept => {
                Some("a chain died by our hand: an answer with the successor came and was not kept")
            }
            Self::StoppedListening => {
                Some("a chain died by our hand: nobody waited for the answer with the successor")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: Token = (
        0,
        Link {
            family: 0,
            generation: 3,
        },
    );

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_death_is_excused_only_if_no_answer_with_the_successor_was_ours() {
        type Story = fn(&mut Ledger, Id);
        let cases: [(Story, Verdict, &str); 12] = [
            (|l, id| l.lost(id), Verdict::Excused, "the network lost it"),
            (
                |l, _| l.killed(1, ms(50), None),
                Verdict::Excused,
                "killed while it was on its way",
            ),
            (
                |l, id| l.abandoned(id),
                Verdict::StoppedListening,
                "nobody waited",
            ),
            (
                |l, id| l.arrived(id, ms(50)),
                Verdict::NotKept,
                "it came and nothing hindered us",
            ),
            (
                |l, id| {
                    l.arrived(id, ms(50));
                    l.killed(1, ms(60), None);
                },
                Verdict::Excused,
                "killed within the write",
            ),
            (
                |l, id| {
                    l.arrived(id, ms(50));
                    l.killed(1, ms(500), None);
                },
                Verdict::NotKept,
                "killed long after",
            ),
            (
                |l, id| {
                    l.arrived(id, ms(50));
                    l.killed(1, ms(500), Some(ms(0)));
                },
                Verdict::Excused,
                "killed while the disk was full",
            ),
            (
                |l, id| {
                    l.arrived(id, ms(50));
                    l.seen(id);
                    l.killed(1, ms(51), None);
                },
                Verdict::WeHadTheSuccessor,
                "seen is ours",
            ),
            (
                |l, id| {
                    l.arrived(id, ms(50));
                    let _ = l.sent(TOKEN, 2, EXCHANGE, true);
                },
                Verdict::Excused,
                "the store took it from its holder until another took over",
            ),
            (
                |l, id| {
                    l.arrived(id, ms(50));
                    let _ = l.sent(TOKEN, 2, EXCHANGE, true);
                    l.seen(id);
                    assert!(l.sent(TOKEN, 2, EXCHANGE, true).1.is_err());
                },
                Verdict::Excused,
                "and it could be written just after the other had sent, who must not do so again",
            ),
            (
                |l, id| {
                    l.arrived(id, ms(50));
                    let _ = l.sent(TOKEN, 2, EXCHANGE - ms(1), true);
                },
                Verdict::NotKept,
                "another did not wait for the end of the intent",
            ),
            (
                |l, id| {
                    l.arrived(id, ms(50));
                    let _ = l.sent(TOKEN, 2, EXCHANGE, false);
                },
                Verdict::NotKept,
                "the store worked, and it was not written",
            ),
        ];
        for (story, expected, what) in cases {
            let mut ledger = Ledger::default();
            let (id, _) = ledger.sent(TOKEN, 1, ms(0), false);
            ledger.dealt_with(id, Effect::Rotated(TOKEN.1));
            story(&mut ledger, id);
            assert_eq!(ledger.judge(TOKEN), expected, "{what}");
        }
    }

    #[test]
    fn what_was_answered_or_refused_must_not_be_sent_again() {
        let mut ledger = Ledger::default();
        let (id, judged) = ledger.sent(TOKEN, 1, ms(0), false);
        assert!(judged.is_ok());
        ledger.dealt_with(id, Effect::Rotated(TOKEN.1));
        let (again, judged) = ledger.sent(TOKEN, 1, ms(0), false);
        assert!(judged.is_ok(), "the answer may have been lost");
        ledger.seen(id);
        assert!(ledger.sent(TOKEN, 2, ms(0), false).1.is_err());
        let _ = again;

        let mut ledger = Ledger::default();
        let (id, _) = ledger.sent(TOKEN, 1, ms(0), false);
        ledger.dealt_with(id, Effect::Refused(TOKEN.1));
        ledger.refused(id);
        assert!(ledger.sent(TOKEN, 1, ms(0), false).1.is_err());
    }
}
