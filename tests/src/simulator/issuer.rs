//! A model issuer: a token endpoint as a pure state machine. It records every token that it issued, so it can distinguish valid
//! tokens from expired and foreign ones, and the fate of every refresh token, so it knows which request revoked a family.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

/// A marker in all tokens, by which leaked ones are found.
pub const MARK: &str = "sim-token";

/// The effect of using a refresh token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// It stays valid.
    Never,
    /// It is replaced by a successor. A repetition within the grace period returns the same successor again; a later one revokes
    /// the family.
    Always {
        /// How long after its use a refresh token may be repeated.
        grace: Duration,
    },
}

/// When access tokens expire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// This long after they were issued.
    After(Duration),
    /// With the session, which restarts when it ends: an early request gains nothing.
    WithSession(Duration),
}

/// An issuer's behaviour without faults.
#[derive(Debug, Clone)]
pub struct Manner {
    /// When its access tokens expire.
    pub expiry: Expiry,
    /// How its refresh tokens rotate.
    pub rotation: Rotation,
    /// How long a refresh token may stay unused; none: forever.
    pub idle: Option<Duration>,
    /// Requests per minute and client above which it answers 429; none: unlimited.
    pub per_minute: Option<u32>,
}

impl Manner {
    /// The longest life of an access token.
    #[must_use]
    pub fn life(&self) -> Duration {
        match self.expiry {
            Expiry::After(life) | Expiry::WithSession(life) => life,
        }
    }
}

/// A request to the token endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The client.
    pub client: String,
    /// The refresh token, for that grant; none: client credentials.
    pub refresh_token: Option<String>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// `Retry-After`, in seconds.
    pub retry_after: Option<u64>,
    /// The content.
    pub body: String,
}

/// A refresh token's family and its position there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Link {
    /// The family.
    pub family: usize,
    /// Its number in the family, from 0.
    pub generation: u32,
}

/// The effect of a request on a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// It brought a successor of this one.
    Rotated(Link),
    /// It used a token that stays valid.
    Used(Link),
    /// It repeated a token within the grace period and got the same successor again.
    Repeated(Link),
    /// It repeated a token too late: the family is revoked.
    Killed(Link),
    /// It used a token that had been unused for too long: the family has expired.
    Expired(Link),
    /// It used a token of a family that was invalid already.
    Refused(Link),
}

/// The refresh tokens of one login.
#[derive(Debug, Clone)]
pub struct Family {
    /// Its client.
    pub client: String,
    newest: u32,
    /// When the newest one was issued, or used if it stays.
    newest_at: Duration,
    /// When the one before the newest was first used.
    spent_at: Duration,
    /// Whether it is revoked or expired.
    pub is_dead: bool,
}

/// An access token that was given out.
#[derive(Debug, Clone)]
pub struct Issued {
    /// Its client.
    pub client: String,
    /// When it expires, in virtual time.
    pub dies: Duration,
}

/// A token endpoint.
#[derive(Debug)]
pub struct Issuer {
    name: String,
    manner: Manner,
    families: Vec<Family>,
    issued: BTreeMap<String, Issued>,
    recent: BTreeMap<String, (Duration, u32)>,
    serial: u64,
}

impl Issuer {
    /// An issuer without clients.
    #[must_use]
    pub fn new(name: &str, manner: Manner) -> Self {
        Self {
            name: name.to_owned(),
            manner,
            families: Vec::new(),
            issued: BTreeMap::new(),
            recent: BTreeMap::new(),
            serial: 0,
        }
    }

    /// Its behaviour.
    #[must_use]
    pub fn manner(&self) -> &Manner {
        &self.manner
    }

    /// A login: a new family and its first refresh token.
    pub fn log_in(&mut self, now: Duration, client: &str) -> (usize, String) {
        self.families.push(Family {
            client: client.to_owned(),
            newest: 0,
            newest_at: now,
            spent_at: Duration::ZERO,
            is_dead: false,
        });
        let link = Link {
            family: self.families.len() - 1,
            generation: 0,
        };
        (link.family, self.refresh_token(link))
    }

    /// The administrator ends a session.
    pub fn revoke(&mut self, family: usize) {
        if let Some(family) = self.families.get_mut(family) {
            family.is_dead = true;
        }
    }

    /// A family.
    #[must_use]
    pub fn family(&self, family: usize) -> Option<&Family> {
        self.families.get(family)
    }

    /// The family and position of a refresh token; none: unknown.
    #[must_use]
    pub fn link(&self, refresh_token: &str) -> Option<Link> {
        let rest = refresh_token.strip_prefix(&format!("{MARK}.rt.{}.", self.name))?;
        let (family, generation) = rest.split_once('.')?;
        let link = Link {
            family: family.parse().ok()?,
            generation: generation.parse().ok()?,
        };
        let known = self.families.get(link.family)?;
        (link.generation <= known.newest).then_some(link)
    }

    /// The record of an access token; none: not issued here.
    #[must_use]
    pub fn issued(&self, access_token: &str) -> Option<&Issued> {
        self.issued.get(access_token)
    }

    /// Drops access tokens that expired before `horizon`.
    pub fn forget_before(&mut self, horizon: Duration) {
        self.issued.retain(|_, issued| issued.dies >= horizon);
    }

    /// Answers a request at `now`.
    pub fn handle(&mut self, now: Duration, request: &Request) -> (Reply, Effect) {
        if self.is_too_often(now, &request.client) {
            let body = json!({"error": "temporarily_unavailable"}).to_string();
            let reply = Reply {
                status: 429,
                retry_after: Some(30),
                body,
            };
            return (reply, Effect::None);
        }
        let Some(refresh_token) = &request.refresh_token else {
            return (self.grant(now, &request.client, None), Effect::None);
        };
        let Some(link) = self.link(refresh_token) else {
            return (refusal("unknown refresh token"), Effect::None);
        };
        self.refresh(now, &request.client, link)
    }

    fn refresh(&mut self, now: Duration, client: &str, link: Link) -> (Reply, Effect) {
        let (rotation, idle) = (self.manner.rotation, self.manner.idle);
        let Some(family) = self.families.get_mut(link.family) else {
            return (refusal("unknown refresh token"), Effect::None);
        };
        if family.is_dead || family.client != client {
            return (refusal("session is not active"), Effect::Refused(link));
        }
        if idle.is_some_and(|idle| now > family.newest_at + idle) {
            family.is_dead = true;
            return (refusal("refresh token has expired"), Effect::Expired(link));
        }
        let Rotation::Always { grace } = rotation else {
            family.newest_at = now;
            let same = self.refresh_token(link);
            return (self.grant(now, client, Some(same)), Effect::Used(link));
        };
        let successor = Link {
            generation: link.generation + 1,
            ..link
        };
        let effect = if link.generation == family.newest {
            family.newest = successor.generation;
            family.newest_at = now;
            family.spent_at = now;
            Effect::Rotated(link)
        } else if successor.generation == family.newest && now < family.spent_at + grace {
            Effect::Repeated(link)
        } else {
            family.is_dead = true;
            return (
                refusal("refresh token was used before"),
                Effect::Killed(link),
            );
        };
        let successor = self.refresh_token(successor);
        (self.grant(now, client, Some(successor)), effect)
    }

    fn refresh_token(&self, link: Link) -> String {
        format!(
            "{MARK}.rt.{}.{}.{}",
            self.name, link.family, link.generation
        )
    }

    fn grant(&mut self, now: Duration, client: &str, refresh_token: Option<String>) -> Reply {
        let dies = match self.manner.expiry {
            Expiry::After(life) => now + life,
            Expiry::WithSession(session) => session_end(now, session),
        };
        self.serial += 1;
        let value = format!("{MARK}.at.{}.{client}.{}", self.name, self.serial);
        self.issued.insert(
            value.clone(),
            Issued {
                client: client.to_owned(),
                dies,
            },
        );
        let mut body = json!({
            "access_token": value,
            "token_type": "Bearer",
            "expires_in": (dies - now).as_secs(),
        });
        if let (Some(members), Some(refresh_token)) = (body.as_object_mut(), refresh_token) {
            members.insert("refresh_token".to_owned(), refresh_token.into());
            if let Some(idle) = self.manner.idle {
                members.insert("refresh_expires_in".to_owned(), idle.as_secs().into());
            }
        }
        Reply {
            status: 200,
            retry_after: None,
            body: body.to_string(),
        }
    }

    fn is_too_often(&mut self, now: Duration, client: &str) -> bool {
        let Some(most) = self.manner.per_minute else {
            return false;
        };
        let (since, count) = self.recent.entry(client.to_owned()).or_insert((now, 0));
        if now >= *since + Duration::from_secs(60) {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        *count > most
    }
}

/// The end of the session at `now`; at least a second away, so that no token is expired on arrival.
fn session_end(now: Duration, session: Duration) -> Duration {
    let passed = Duration::from_millis(
        u64::try_from(now.as_millis() % session.as_millis().max(1)).unwrap_or_default(),
    );
    let left = session - passed;
    now + if left < Duration::from_secs(2) {
        left + session
    } else {
        left
    }
}

fn refusal(description: &str) -> Reply {
    let body = json!({"error": "invalid_grant", "error_description": description});
    Reply {
        status: 400,
        retry_after: None,
        body: body.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn issuer(rotation: Rotation) -> (Issuer, Request) {
        let manner = Manner {
            expiry: Expiry::After(s(300)),
            rotation,
            idle: None,
            per_minute: None,
        };
        let mut issuer = Issuer::new("i", manner);
        let request = Request {
            client: "c".to_owned(),
            refresh_token: Some(issuer.log_in(s(0), "c").1),
        };
        (issuer, request)
    }

    fn link(generation: u32) -> Link {
        Link {
            family: 0,
            generation,
        }
    }

    #[test]
    fn a_refresh_token_may_be_repeated_within_the_grace_and_kills_its_family_beyond() {
        for (grace, repeated_after, expected) in [
            (s(0), s(0), Effect::Killed(link(0))),
            (s(10), s(9), Effect::Repeated(link(0))),
            (s(10), s(10), Effect::Killed(link(0))),
        ] {
            let (mut issuer, first) = issuer(Rotation::Always { grace });
            let (reply, effect) = issuer.handle(s(100), &first);
            assert_eq!(effect, Effect::Rotated(link(0)));
            let (again, effect) = issuer.handle(s(100) + repeated_after, &first);
            assert_eq!(effect, expected);
            let successor = |reply: &Reply| {
                let body: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
                body["refresh_token"].as_str().map(str::to_owned)
            };
            if matches!(expected, Effect::Repeated(_)) {
                assert_eq!(successor(&again), successor(&reply));
            } else {
                assert_eq!(again.status, 400);
                let next = Request {
                    refresh_token: successor(&reply),
                    ..first
                };
                assert_eq!(
                    issuer.handle(s(200), &next).1,
                    Effect::Refused(link(1)),
                    "the newest is dead with its family"
                );
            }
        }
    }

    #[test]
    fn an_issuer_that_does_not_rotate_takes_one_refresh_token_for_ever() {
        let (mut issuer, request) = issuer(Rotation::Never);
        for now in [0, 1, 1000] {
            assert_eq!(issuer.handle(s(now), &request).1, Effect::Used(link(0)));
        }
    }

    #[test]
    fn tokens_that_die_with_the_session_get_no_later_end_by_asking_early() {
        assert_eq!(session_end(s(0), s(100)), s(100));
        assert_eq!(session_end(s(97), s(100)), s(100));
        assert_eq!(session_end(s(99), s(100)), s(200));
        assert_eq!(session_end(s(100), s(100)), s(200));
    }
}
