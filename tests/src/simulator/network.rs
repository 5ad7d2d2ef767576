//! The network between a process and the issuers: requests and answers may be lost, delayed, or replaced. A request that has left
//! the machine is handled whether or not its sender still runs.

use std::sync::Arc;
use std::time::Duration;

use evertoken::capability::http::{Arriving, NoAnswer, Outgoing, Transport};
use evertoken::model::failure::{Failure, FailureKind};
use evertoken::model::time::Clock as _;
use futures_core::future::BoxFuture;
use tokio::sync::oneshot;

use super::issuer::{Effect, Link, Reply, Request};
use super::ledger::{Id, UNAVOIDABLE};
use super::life::Life;
use super::scenario::{Edge, Part, Step};
use super::time::MachineClock;
use super::wire::{Oddity, Sent};
use super::world::{EXCHANGE, Facts, World};

/// The one-way latency to the issuers in milliseconds; longer than [`UNAVOIDABLE`], so that a process killed in a later request
/// is not excused as if it were in the write after an earlier one.
const WAY_MS: std::ops::Range<u64> = 40..400;
const _: () = assert!(UNAVOIDABLE.as_millis() < WAY_MS.start as u128);

/// Beyond this an answer is late and need not be awaited. The sender's minute begins a little before the request leaves.
const LATE: Duration = Duration::from_secs(58);

/// The network as one process sees it.
#[derive(Debug)]
pub struct Net {
    /// The state of the run.
    pub world: Arc<World>,
    /// The process that sends.
    pub life: Arc<Life>,
    /// The sender's clock.
    pub clock: Arc<MachineClock>,
}

/// The content of a request.
enum Asked {
    Token(Request),
    UserInfo,
}

/// A request under way, with its fate, which is decided when it leaves.
struct Parcel {
    issuer: usize,
    asked: Asked,
    /// Its number in the ledger, if it carries a refresh token.
    id: Option<Id>,
    client: String,
    there: Duration,
    back: Duration,
    /// The answer in place of the issuer's.
    instead: Option<Reply>,
    is_lost_there: bool,
    is_lost_back: bool,
    oddity: Oddity,
    /// Where its answer is truncated, from 0 to 1.
    cut_at: Option<f64>,
    sent: Duration,
}

impl Transport for Net {
    fn exchange<'a>(
        &'a self,
        outgoing: Outgoing,
        arriving: &'a Arriving,
    ) -> BoxFuture<'a, Result<(), NoAnswer>> {
        Box::pin(self.carry(outgoing, arriving))
    }
}

impl Net {
    async fn carry(&self, outgoing: Outgoing, arriving: &Arriving) -> Result<(), NoAnswer> {
        let taken = self.life.before(Step::Send).await;
        let sent_at = self.clock.now().wall;
        arriving.send_modify(|arrived| arrived.sent_at = sent_at);
        let (parcel, breaks_off) = self.send(&outgoing).inspect_err(|none| {
            self.world.note(format_args!("not sent: {}", none.failure));
        })?;
        let id = parcel.id;
        let (dealt_with, is_dealt_with) = oneshot::channel();
        let (answer, answered) = oneshot::channel();
        tokio::spawn(deliver(
            Arc::clone(&self.world),
            Arc::clone(&self.life),
            parcel,
            dealt_with,
            answer,
        ));
        if breaks_off {
            tokio::time::sleep(Duration::from_secs(1)).await;
            self.life.at(taken, Edge::After).await;
            return Err(NoAnswer::after_sending(failure("the connection broke")));
        }
        if is_dealt_with.await.is_ok() {
            self.life.at(taken, Edge::Midway).await;
        }
        let Ok(sent) = answered.await else {
            // Nothing will ever arrive: the receiver has a timeout of its own.
            return std::future::pending().await;
        };
        if let Some(id) = id.filter(|_| self.life.is_alive()) {
            let now = self.world.time.now();
            let ledger = &mut self.world.facts().ledger;
            if sent.lost_the_successor {
                ledger.lost(id);
            } else {
                ledger.arrived(id, now);
            }
        }
        self.life.at(taken, Edge::After).await;
        let ends_well = sent.ends_well;
        arriving.send_modify(|arrived| arrived.bytes = sent.bytes);
        if ends_well {
            Ok(())
        } else {
            Err(NoAnswer::after_sending(failure("the answer broke off")))
        }
    }

    /// The request leaves; its fate is decided now. The second value: whether its sender learns that its answer is lost.
    fn send(&self, outgoing: &Outgoing) -> Result<(Parcel, bool), NoAnswer> {
        let now = self.world.time.now();
        let mut facts = self.world.facts();
        let facts = &mut *facts;
        let issuer = issuer_of(outgoing);
        let asked = asked(outgoing);
        let client = match &asked {
            Asked::Token(request) => request.client.clone(),
            Asked::UserInfo => user_of(outgoing, facts, issuer),
        };
        facts.count("requests");
        let processes = self.world.scenario.processes;
        let is_repeatable =
            matches!(&asked, Asked::Token(request) if request.refresh_token.is_some());
        let of_client = (issuer, client.clone());
        if let Err(requests) = facts.pace.asks(of_client, is_repeatable, now, processes) {
            let what = format!(
                "{client} asked issuer {issuer} {requests} times in ten minutes of a long outage"
            );
            facts.violated(now, what);
        }
        if facts
            .strikes(now, |part| part == Part::Unreachable(issuer))
            .is_some()
        {
            facts.hinder_client(&client, now, now, "no connection");
            return Err(NoAnswer::before_sending(failure("no connection")));
        }
        let id = enter(facts, now, issuer, &asked, &self.life);
        let parcel = decide(facts, now, issuer, asked, id, client);
        let breaks_off = parcel.is_lost_back && facts.rng.bool();
        if let Some(id) = id.filter(|_| parcel.is_lost_there || parcel.is_lost_back) {
            facts.ledger.lost(id);
        }
        Ok((parcel, breaks_off))
    }
}

/// Records a refresh token in the ledger.
fn enter(
    facts: &mut Facts,
    now: Duration,
    issuer: usize,
    asked: &Asked,
    life: &Life,
) -> Option<Id> {
    let Asked::Token(Request {
        refresh_token: Some(refresh_token),
        client,
    }) = asked
    else {
        return None;
    };
    let link = facts.issuers.get(issuer)?.link(refresh_token);
    let Some(link) = link else {
        facts.violated(now, format!("{client} sent what is no refresh token"));
        return None;
    };
    let (id, judged) = facts.ledger.sent(
        (issuer, link),
        life.id,
        now,
        facts.store_refused_since(now.saturating_sub(EXCHANGE)),
    );
    facts.note(
        now,
        format_args!(
            "start {} sends {} to issuer {issuer} as exchange {id}",
            life.id,
            Shown(link)
        ),
    );
    if let Err(sentence) = judged {
        facts.violated(now, format!("{sentence} (issuer {issuer}, {link:?})"));
    }
    Some(id)
}

fn decide(
    facts: &mut Facts,
    now: Duration,
    issuer: usize,
    asked: Asked,
    id: Option<Id>,
    client: String,
) -> Parcel {
    let is_user_info = matches!(asked, Asked::UserInfo);
    let mut back = Duration::from_millis(facts.rng.u64(WAY_MS));
    let there = Duration::from_millis(facts.rng.u64(WAY_MS));
    let mut end = now + there + back;
    if facts
        .strikes(now, |part| part == Part::Slow(issuer))
        .is_some()
    {
        back += Duration::from_secs(facts.rng.u64(20..75));
        end = now + there + back.min(EXCHANGE);
        facts.hinder_client(&client, now, end, "a slow answer");
    }
    let is_lost_there = facts
        .strikes(now, |part| part == Part::RequestsLost(issuer))
        .is_some();
    let is_lost_back = facts
        .strikes(now, |part| part == Part::AnswersLost(issuer))
        .is_some();
    let is_cut = !is_user_info
        && facts
            .strikes(now, |part| part == Part::Truncated(issuer))
            .is_some();
    let cut_at = is_cut.then(|| facts.rng.f64());
    let is_odd = facts
        .strikes(now, |part| part == Part::Odd(issuer))
        .is_some();
    let oddity = if is_odd && !is_cut {
        Oddity::draw(&mut facts.rng)
    } else {
        Oddity::None
    };
    let instead = instead(facts, now, issuer, is_user_info);
    if is_lost_there || is_lost_back {
        facts.hinder_client(&client, now, now + EXCHANGE, "a lost request or answer");
    } else if is_cut || instead.is_some() {
        facts.hinder_client(&client, now, end, "an answer that is none");
    }
    Parcel {
        issuer,
        asked,
        id,
        client,
        there,
        back,
        instead,
        is_lost_there,
        is_lost_back,
        oddity,
        cut_at,
        sent: now,
    }
}

/// The answer in place of the issuer's.
fn instead(facts: &mut Facts, now: Duration, issuer: usize, is_user_info: bool) -> Option<Reply> {
    let struck = facts.strikes(now, |part| match part {
        Part::Unwell(of)
        | Part::Busy(of, _)
        | Part::Impostor(of)
        | Part::Redirected(of)
        | Part::Maintenance(of) => of == issuer,
        Part::ErrorInside200(of) => of == issuer && !is_user_info,
        Part::UserInfo(of) => of == issuer && is_user_info,
        _ => false,
    })?;
    let json = r#"{"error":"temporarily_unavailable"}"#;
    let (status, retry_after, body) = match struck {
        Part::Busy(_, seconds) => (429, Some(seconds), json),
        Part::Impostor(_) => (502, None, "<html>Bad Gateway</html>"),
        Part::Redirected(_) => (302, None, ""),
        Part::Maintenance(_) => (200, None, "<!doctype html><h1>Back soon</h1>"),
        Part::ErrorInside200(_) => (200, None, json),
        _ => (503, None, json),
    };
    Some(Reply {
        status,
        retry_after,
        body: body.to_owned(),
    })
}

/// Delivers a request and its answer.
async fn deliver(
    world: Arc<World>,
    life: Arc<Life>,
    parcel: Parcel,
    dealt_with: oneshot::Sender<()>,
    answer: oneshot::Sender<Sent>,
) {
    tokio::time::sleep(parcel.there).await;
    if parcel.is_lost_there {
        return;
    }
    let sent = deal(&world, &parcel);
    let _ = dealt_with.send(());
    tokio::time::sleep(parcel.back).await;
    if parcel.is_lost_back {
        return;
    }
    let took = world.time.now() - parcel.sent;
    if answer.send(sent).is_err()
        && let Some(id) = parcel.id.filter(|_| life.is_alive())
    {
        let mut facts = world.facts();
        if took >= LATE {
            facts.ledger.lost(id);
        } else {
            facts.ledger.abandoned(id);
        }
    }
}

fn deal(world: &World, parcel: &Parcel) -> Sent {
    let now = world.time.now();
    let mut facts = world.facts();
    let facts = &mut *facts;
    let (reply, effect) = match (&parcel.instead, &parcel.asked) {
        (Some(reply), _) => (reply.clone(), Effect::None),
        (None, Asked::UserInfo) => (user_info(), Effect::None),
        (None, Asked::Token(request)) => match facts.issuers.get_mut(parcel.issuer) {
            Some(issuer) => issuer.handle(now, request),
            None => (user_info(), Effect::None),
        },
    };
    if reply.status == 429 {
        facts.hinder_client(&parcel.client, now, now, "too many requests");
    }
    let mut sent = Sent::new(&reply, parcel.id, parcel.oddity);
    if let Some(at) = parcel.cut_at {
        sent = sent.cut(&reply, at);
        for login in &mut facts.logins {
            login.is_garbled |= login.client == parcel.client && sent.lost_the_successor;
        }
    }
    facts.note(
        now,
        format_args!(
            "issuer {} answers {} with {} ({:?}, cut: {}): {effect:?}",
            parcel.issuer,
            parcel.client,
            reply.status,
            parcel.oddity,
            parcel.cut_at.is_some()
        ),
    );
    if let Some(id) = parcel.id {
        facts.dealt_with(now, parcel.issuer, id, effect);
    }
    sent
}

fn user_info() -> Reply {
    Reply {
        status: 200,
        retry_after: None,
        body: r#"{"sub":"somebody"}"#.to_owned(),
    }
}

/// `https://i2.example/…` is the issuer with number 2.
fn issuer_of(outgoing: &Outgoing) -> usize {
    let host = outgoing.url.host_str().unwrap_or_default();
    let number = host
        .strip_prefix('i')
        .and_then(|rest| rest.split('.').next());
    number
        .and_then(|number| number.parse().ok())
        .unwrap_or_default()
}

fn asked(outgoing: &Outgoing) -> Asked {
    if outgoing.url.path() != "/token" {
        return Asked::UserInfo;
    }
    let (mut client, mut refresh_token) = (String::new(), None);
    for (name, value) in form_urlencoded::parse(&outgoing.body) {
        match &*name {
            "client_id" => client = value.into_owned(),
            "refresh_token" => refresh_token = Some(value.into_owned()),
            _ => {}
        }
    }
    Asked::Token(Request {
        client,
        refresh_token,
    })
}

/// The user of the access token in a request after the exchange.
fn user_of(outgoing: &Outgoing, facts: &Facts, issuer: usize) -> String {
    let header = outgoing.headers.get("authorization");
    let token = header
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    token
        .and_then(|token| facts.issuers.get(issuer)?.issued(token))
        .map(|issued| issued.client.clone())
        .unwrap_or_default()
}

fn failure(message: &str) -> Failure {
    Failure::new(FailureKind::Unavailable, "http.model", message)
}

struct Shown(Link);

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "token {}.{}", self.0.family, self.0.generation)
    }
}
