//! A request that carries rotating secrets. Recording it, sending it and storing its answer is a task of the host's own: if the
//! plugin is stopped, the job removed or the process asked to end, only the waiting for it stops.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::guard::is_changed;
use super::{ChainGuard, Journal};
use crate::capability::chain::{Intent, PluginId};
use crate::capability::http::{
    Arrived, Meaning, NoAnswer, Outgoing, ReadAnswer, RequestFacts, Response, refusal,
};
use crate::capability::ports::Settings;
use crate::model::Job;
use crate::model::failure::{Failure, FailureKind, HostCode};

/// The longest duration of an exchange, longer than a call's timeout: a late answer is the only copy of the successor.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(60);

/// The part of it that must be left when the request is sent: storing the intent may have taken long, or the machine slept, and
/// another process may take the chain over when the intent has expired.
const SENDING_TIME: Duration = Duration::from_secs(20);

/// When a part of an answer is stored for the first time, counted from its first byte. Most answers are complete within
/// milliseconds, and a whole object is after a shorter pause. Further parts are stored after twice the time, and so on: nine
/// times for an answer that trickles for a minute.
const KEPT_FIRST: Duration = Duration::from_millis(150);

/// The first wait before an answer that could not be stored is stored again; doubled up to the longest.
const REWRITE_FIRST: Duration = Duration::from_millis(250);

/// The longest such wait: short compared to the time that a disk or a cluster takes to recover.
const REWRITE_LONGEST: Duration = Duration::from_secs(15);

/// The call that sends the request.
pub(in crate::capability) struct ExchangeContext {
    pub(in crate::capability) journal: Arc<Journal>,
    pub(in crate::capability) job: Arc<Job>,
    /// The component that composes the request.
    pub(in crate::capability) plugin: PluginId,
    /// Removes secrets from a text.
    pub(in crate::capability) scrub: Box<dyn Fn(&str) -> String + Send + Sync>,
}

/// Sends a request that carries values of these chains, or returns the answer that is stored for one of them.
///
/// # Errors
/// There is no answer: `http.*`; no answer is stored and the request may not be sent: `may_leave`'s; a value must not be sent
/// (again): `chain.*`; the intent cannot be stored: the store's. Nothing was sent in the last three cases.
pub(in crate::capability) async fn send(
    asked: ExchangeContext,
    guards: Vec<(Arc<ChainGuard>, u64)>,
    outgoing: Outgoing,
    may_leave: Result<(), Failure>,
) -> Result<Response, Failure> {
    let url = without_query(&outgoing);
    for (guard, generation) in &guards {
        let answer = guard.take_answer(outgoing.method.as_str(), &url, *generation);
        if let Some(response) = answer.await? {
            tracing::info!(
                job = %guard.job(), secret = guard.secret(),
                "an answer that an earlier call left behind is given to the plugin"
            );
            return Ok(response);
        }
    }
    may_leave?;
    let guards = guards.into_iter().map(|(guard, _)| guard).collect();
    let (answered, answer) = oneshot::channel();
    let exchanges = asked.journal.exchanges.clone();
    let exchange = ExchangeTask { asked, guards, url };
    exchanges.spawn(exchange.run(outgoing, answered));
    answer.await.unwrap_or_else(|_| {
        Err(Failure::new(
            FailureKind::Internal,
            HostCode::HostPanic,
            "a bug in evertoken stopped a request; the log has more, please report it",
        ))
    })
}

fn without_query(outgoing: &Outgoing) -> String {
    let mut url = outgoing.url.clone();
    url.set_query(None);
    url.into()
}

struct ExchangeTask {
    asked: ExchangeContext,
    /// They hold the chains until the answer is stored.
    guards: Vec<Arc<ChainGuard>>,
    url: String,
}

impl ExchangeTask {
    async fn run(self, outgoing: Outgoing, answered: oneshot::Sender<Result<Response, Failure>>) {
        let began = self.ports().clock.now().boot;
        let intended = self.intend(outgoing.method.as_str()).await;
        // By the clock that goes on while the machine sleeps.
        let passed = self.ports().clock.now().boot.saturating_sub(began);
        let left = EXCHANGE_TIMEOUT.saturating_sub(passed);
        let result = match intended {
            Err(failure) => Err(failure),
            Ok(()) if answered.is_closed() => {
                self.unsent().await;
                return;
            }
            Ok(()) if left < SENDING_TIME => {
                self.unsent().await;
                Err(too_late(passed))
            }
            Ok(()) => self.exchanged(outgoing, left).await,
        };
        // The caller may have been stopped; the answer is stored for the next call.
        let _ = answered.send(result);
    }

    fn ports(&self) -> &Settings {
        &self.asked.journal.ports
    }

    /// Stores the intent for each chain in the request.
    async fn intend(&self, method: &str) -> Result<(), Failure> {
        let ExchangeContext {
            journal,
            job,
            plugin,
            ..
        } = &self.asked;
        let written_at = journal.ports.clock.now().wall;
        for (index, guard) in self.guards.iter().enumerate() {
            let intent = Intent {
                holder: journal.holder,
                written_at,
                not_after: written_at.after(EXCHANGE_TIMEOUT),
                method: method.to_owned(),
                url: self.url.clone(),
                job: job.id.clone(),
                plugin: plugin.clone(),
                config: job.source.config.clone(),
            };
            if let Err(failure) = guard.intend(intent).await {
                for earlier in self.guards.iter().take(index) {
                    earlier.unsent().await;
                }
                return Err(failure);
            }
        }
        Ok(())
    }

    async fn exchanged(&self, outgoing: Outgoing, within: Duration) -> Result<Response, Failure> {
        let url = &self.url;
        let question = RequestFacts::of(&outgoing);
        let nothing_yet = Arrived::nothing_yet(self.ports().clock.now().wall);
        let (arriving, mut so_far) = watch::channel(nothing_yet);
        let exchanging = async move {
            let exchange = self.ports().transport.exchange(outgoing, &arriving);
            timeout(within, exchange).await.unwrap_or_else(|_| {
                Err(NoAnswer::after_sending(Failure::new(
                    FailureKind::Unavailable,
                    HostCode::HttpTimeout,
                    format!(
                        "{url} had not answered in full {} s after the request was written down",
                        EXCHANGE_TIMEOUT.as_secs()
                    ),
                )))
            })
        };
        // A store write that has begun is not cancelled, since its outcome would be unknown.
        let (outcome, ()) = tokio::join!(exchanging, self.keep_what_comes(&mut so_far));
        let arrived = so_far.borrow().clone();
        match question.answered_by(&arrived, outcome).await {
            Err(none) if !none.was_sent => {
                self.unsent().await;
                Err(none.failure)
            }
            Err(none) => {
                self.lost(&arrived).await;
                Err(none.failure)
            }
            Ok(ReadAnswer {
                response, meaning, ..
            }) => {
                match meaning {
                    Meaning::Taken => self.keep(&arrived).await,
                    Meaning::Unspent => self.unspent().await,
                    Meaning::Unknown => self.in_doubt(&arrived).await,
                    Meaning::Dead => self.dead(&response).await,
                }
                Ok(response)
            }
        }
    }

    /// Stores the part of an answer whose rest is late: it may have the only copy of the successor, and the process may end
    /// before the answer does. Most answers are complete before that is due.
    async fn keep_what_comes(&self, so_far: &mut watch::Receiver<Arrived>) {
        let has_begun = so_far.wait_for(|arrived| !arrived.bytes.is_empty());
        if has_begun.await.is_err() {
            return;
        }
        let mut pause = KEPT_FIRST;
        while timeout(pause, ended(so_far)).await.is_err() {
            let arrived = so_far.borrow_and_update().clone();
            for guard in &self.guards {
                if let Err(failure) = guard.keep_what_came(&arrived).await {
                    tracing::warn!(
                        job = %guard.job(), secret = guard.secret(), error = %failure,
                        "what came so far of an answer to a request with a rotating secret cannot be written down"
                    );
                }
            }
            pause *= 2;
            if so_far.changed().await.is_err() {
                return;
            }
        }
    }

    async fn unsent(&self) {
        for guard in &self.guards {
            guard.unsent().await;
        }
    }

    async fn lost(&self, arrived: &Arrived) {
        for guard in &self.guards {
            guard.loses_its_answer();
        }
        self.in_doubt(arrived).await;
    }

    async fn unspent(&self) {
        for guard in &self.guards {
            said(guard, guard.unspent().await);
        }
    }

    async fn in_doubt(&self, arrived: &Arrived) {
        for guard in &self.guards {
            said(guard, guard.in_doubt(arrived).await);
        }
    }

    /// The issuer rejects the value, unless another process rotated it meanwhile: then the next call has the newer one.
    async fn dead(&self, response: &Response) {
        let [guard] = &self.guards[..] else {
            // With several values, it is unknown which one is rejected.
            return self.unspent().await;
        };
        match guard.has_moved_on().await {
            Ok(true) => tracing::warn!(
                job = %guard.job(), secret = guard.secret(),
                "the issuer refused a value that another process has replaced meanwhile"
            ),
            Ok(false) => {
                tracing::error!(
                    job = %guard.job(), secret = guard.secret(), place = guard.origin().map(tracing::field::display),
                    "the issuer takes this rotating secret no more; it is not sent again: log in again and configure the new value"
                );
                let reason = refusal(response).map(|reason| (self.asked.scrub)(&reason));
                said(guard, guard.died(reason).await);
            }
            Err(failure) => said(guard, Err(failure)),
        }
    }

    /// Stores the answer, however long that takes: it may have the only copy of the successor.
    async fn keep(&self, arrived: &Arrived) {
        for guard in &self.guards {
            let mut next = guard.with_answer(arrived).await;
            let mut wait = REWRITE_FIRST;
            while let Err(failure) = guard.keep_answer(&mut next).await {
                if is_changed(&failure) {
                    said(guard, Err(failure));
                    break;
                }
                tracing::error!(
                    job = %guard.job(), secret = guard.secret(), error = %failure,
                    "the answer with the successor of a rotating secret cannot be written to the state store; do not stop this process"
                );
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(REWRITE_LONGEST);
            }
        }
    }
}

/// The exchange has ended: nothing more arrives.
async fn ended(so_far: &mut watch::Receiver<Arrived>) {
    while so_far.changed().await.is_ok() {}
}

fn too_late(passed: Duration) -> Failure {
    Failure::new(
        FailureKind::Unavailable,
        HostCode::StateSlow,
        format!(
            "writing down a request with a rotating secret took {} s, so it was not sent",
            passed.as_secs()
        ),
    )
}

/// What cannot be stored is later found as an unanswered request, so nothing is lost.
pub(super) fn said(guard: &ChainGuard, result: Result<(), Failure>) {
    if let Err(failure) = result {
        tracing::warn!(
            job = %guard.job(), secret = guard.secret(), error = %failure,
            "the end of a request with a rotating secret cannot be written down"
        );
    }
}
