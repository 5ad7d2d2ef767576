//! What to do about one Lease: whose it is, whether it is over, and what that means for us. As in client-go's leaderelection, the
//! clocks of two machines are never compared: another's Lease is over when its record has not changed for its duration by our own
//! clock, which counts from when we saw the change. Ours is good for a shorter time, which counts from before the request that
//! renewed it was sent. Times are of CLOCK_BOOTTIME, which also runs while the machine sleeps. Pure; no clock, no waiting.

use std::time::Duration;

/// For how long a Lease is its holder's after the last change that others saw. Kubernetes' own components have this number: an API
/// server may restart within it, and a takeover still comes within the 20 s that a fresh token can wait.
pub(super) const DURATION: Duration = Duration::from_secs(15);

/// How often a Lease is renewed: one renewal may fail and there is time for another before [`DEADLINE`].
pub(super) const RENEW_EVERY: Duration = Duration::from_secs(5);

/// For how long a renewal is good for the holder itself, from before it was sent. The rest of [`DURATION`] is for clocks that run
/// at different speeds and for what was allowed at the last moment and is still on its way.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);

/// The end of time: nothing is to be done unless something else happens.
pub(super) const NEVER: Duration = Duration::MAX;

/// What a Lease says, without what only people read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// The `resourceVersion`; none: there is no such Lease. Every change has another, and renewTime is a change.
    pub(super) revision: Option<String>,
    /// The `holderIdentity`, if it is not empty.
    pub(super) holder: Option<String>,
    /// The `leaseDurationSeconds`. None: its holder gave it up; one that only lost its holder by hand still has it.
    pub(super) duration: Option<Duration>,
    /// The `leaseTransitions`, for people: each take counts one further.
    pub(super) term: i32,
    /// The `acquireTime`, which renewals keep.
    pub(super) acquired: Option<String>,
    /// By how many shards its writer divides the jobs, if it says so.
    pub(super) shards: Option<u32>,
}

impl Record {
    /// Where there is no Lease.
    pub(super) const ABSENT: Self = Self {
        revision: None,
        holder: None,
        duration: None,
        term: 0,
        acquired: None,
        shards: None,
    };

    pub(super) const fn is_absent(&self) -> bool {
        self.revision.is_none()
    }

    /// Without a holder, though nobody gave it up: new, or by a hand. The last holder may not know yet, so nobody else may have it sooner
    /// than a Lease that is held.
    pub(super) const fn is_orphan(&self) -> bool {
        self.holder.is_none() && !self.is_given_up()
    }

    /// Given up in order by its last holder, which then had already stopped.
    pub(super) const fn is_given_up(&self) -> bool {
        self.revision.is_some() && self.holder.is_none() && self.duration.is_none()
    }

    /// Whether it is still this take of ours that it shows.
    pub(super) fn is_take(&self, us: &str, own: Option<Own>) -> bool {
        let holder = own.map(|own| own.holder(us));
        holder.is_some() && self.holder == holder
    }

    /// The number of the next take.
    pub(super) fn next_term(&self) -> i32 {
        self.term
            .checked_add(1)
            .filter(|term| *term > 0)
            .unwrap_or(1)
    }
}

/// A Lease as we saw it last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) record: Record,
    /// When the answer arrived that first had this record: its holder wrote it before.
    pub(super) changed_at: Duration,
    /// When the last request that still found it so was sent.
    pub(super) confirmed_at: Duration,
}

impl Seen {
    /// When it is over if it does not change, for somebody who has seen all changes since `sight`.
    pub(super) fn over_at(&self, sight: Duration) -> Duration {
        // Nobody is more hurried than we are: a hand may have written 0.
        let duration = self.record.duration.unwrap_or_default().max(DURATION);
        self.changed_at.max(sight).saturating_add(duration)
    }

    /// Whether it is over: a request that was sent after that time found it unchanged. The passing of time alone proves nothing: we may
    /// have been suspended, or cut off. Nor does a Lease that is not there: between two readings it may have been made, held and
    /// deleted, and no revision would tell.
    pub(super) fn is_over(&self, sight: Duration) -> bool {
        !self.record.is_absent() && self.confirmed_at >= self.over_at(sight)
    }
}

/// Our last take of a Lease, from when it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Own {
    /// No other take of this process has this number, of whatever Lease. Our name alone does not make a Lease ours: a hand can write it.
    pub(super) take: u64,
    pub(super) term: i32,
    /// When the last renewal that succeeded was sent, or the take; none: the take's answer is not known.
    pub(super) renewed: Option<Duration>,
}

impl Own {
    /// The `holderIdentity` of this take.
    pub(super) fn holder(&self, us: &str) -> String {
        format!("{us}/{}", self.take)
    }

    /// Until when it is certainly ours.
    pub(super) fn valid_until(&self) -> Duration {
        self.renewed
            .map_or(Duration::ZERO, |sent| sent.saturating_add(DEADLINE))
    }
}

/// What the jobs of a shard do here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Jobs {
    /// None runs.
    Stopped,
    /// They may run.
    Running,
    /// They were told to stop, and may still finish what they began.
    Stopping,
    /// They were told to stop, and may do nothing more; we have not heard yet that they know.
    Cut,
}

/// Whether we should have a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// We are the right replica for it.
    Ours,
    /// Another one is.
    Others,
    /// We cannot tell who lives.
    Unknown,
    /// We are about to end, and should have none.
    Leaving,
}

/// What to do about a shard's Lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// There is none: make one that is nobody's, to be taken as if it was somebody's.
    Make,
    /// Write ourselves in.
    Take,
    /// Write it again, also after a hand deleted or cleared it under us.
    Renew,
    /// It is ours: let the jobs run.
    Run,
    /// Stop the jobs, so that another can have it.
    Stop,
    /// The jobs have stopped: write us out.
    Release,
    /// It is not ours any more, or no longer certainly: nothing more may be done.
    Lost,
    /// Nothing before this time unless something else happens.
    Wait(Duration),
}

/// What is decided on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Situation<'a> {
    pub(super) us: &'a str,
    pub(super) seen: &'a Seen,
    pub(super) own: Option<Own>,
    pub(super) jobs: Jobs,
    pub(super) place: Place,
    /// Since when we have seen all changes.
    pub(super) sight: Duration,
}

impl Situation<'_> {
    /// What to do now.
    pub(super) fn decide(&self, now: Duration) -> Decision {
        match self.jobs {
            Jobs::Running => self.running(now),
            Jobs::Stopping => self.kept(now),
            Jobs::Cut => self.cut(),
            Jobs::Stopped => self.stopped(now),
        }
    }

    fn running(&self, now: Duration) -> Decision {
        let kept = self.kept(now);
        if kept != Decision::Lost && self.is_to_go() {
            return Decision::Stop;
        }
        kept
    }

    /// While our jobs may still do something.
    fn kept(&self, now: Duration) -> Decision {
        let Some(own) = self.valid(now) else {
            return Decision::Lost;
        };
        if self.seen.record.is_orphan() {
            // Nobody else can have had it: they wait for its duration, and it was ours a moment ago.
            return Decision::Renew;
        }
        if !self.is_ours() {
            return Decision::Lost;
        }
        let due = own.renewed.unwrap_or_default().saturating_add(RENEW_EVERY);
        if now < due {
            Decision::Wait(due)
        } else {
            Decision::Renew
        }
    }

    fn cut(&self) -> Decision {
        if self.is_to_go() && self.is_ours() {
            Decision::Release
        } else {
            Decision::Wait(NEVER)
        }
    }

    fn stopped(&self, now: Duration) -> Decision {
        match self.place {
            Place::Ours if self.is_ours() && self.valid(now).is_some() => Decision::Run,
            Place::Ours if self.is_ours() => Decision::Renew,
            Place::Others | Place::Leaving if self.is_ours() => Decision::Release,
            Place::Ours if self.is_free() => Decision::Take,
            // Whoever sees it first, so that its time begins.
            Place::Ours | Place::Others if self.seen.record.is_absent() => Decision::Make,
            Place::Ours => Decision::Wait(self.seen.over_at(self.sight)),
            Place::Others | Place::Unknown | Place::Leaving => Decision::Wait(NEVER),
        }
    }

    fn is_to_go(&self) -> bool {
        matches!(self.place, Place::Others | Place::Leaving)
    }

    fn valid(&self, now: Duration) -> Option<Own> {
        self.own.filter(|own| now < own.valid_until())
    }

    fn is_free(&self) -> bool {
        self.seen.record.is_given_up() || self.seen.is_over(self.sight)
    }

    fn is_ours(&self) -> bool {
        self.seen.record.is_take(self.us, self.own)
    }
}

#[cfg(test)]
mod tests;
