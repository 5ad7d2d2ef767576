//! A native model of the `oauth2` plugin: it makes the same host calls in the same order as the component, and can misbehave as
//! components can. Running the component itself would only cost time.

use std::sync::Arc;
use std::time::Duration;

use evertoken::capability::chain::PluginId;
use evertoken::capability::{Body, Call, Request, Response, TokenSource, Unsuccessful, Value};
use evertoken::model::Job;
use evertoken::model::Origin;
use evertoken::model::failure::{Failure, FailureKind};
use evertoken::model::time::Timestamp;
use evertoken::model::token::{Expiry, Token};
use evertoken_answer::{Content, Members};
use futures_core::future::BoxFuture;
use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};

use super::scenario::{Habit, Part};
use super::wire::EXCHANGE_HEADER;
use super::world::World;

/// The name of the refresh token.
pub const REFRESH_TOKEN: &str = "refresh_token";

/// The name of the client's secret.
pub const CLIENT_SECRET: &str = "client_secret";

/// The plugin, as a job calls it.
#[derive(Debug)]
pub struct OAuth2 {
    /// Where it is installed.
    pub world: Arc<World>,
    /// The job that calls it.
    pub job: usize,
}

impl TokenSource for OAuth2 {
    fn plugin(&self) -> PluginId {
        let version = self.world.facts().plugin_version;
        PluginId {
            name: "oauth2".to_owned(),
            digest: Sha256::digest(version.to_be_bytes()).into(),
            interface: "0.1".to_owned(),
        }
    }

    fn endpoints<'a>(&'a self, config: &'a Json) -> BoxFuture<'a, Result<Arc<[Origin]>, Failure>> {
        Box::pin(async { Ok(endpoints(config)) })
    }

    fn acquire<'a>(
        &'a self,
        job: &'a Job,
        call: &'a Call,
    ) -> BoxFuture<'a, Result<Token, Unsuccessful>> {
        Box::pin(async move {
            tokio::time::timeout(job.source.timeout, self.run(job, call))
                .await
                .unwrap_or_else(|_| {
                    Err(Unsuccessful::Broke(Failure::new(
                        FailureKind::Unavailable,
                        "plugin.timeout",
                        "the call took too long",
                    )))
                })
        })
    }
}

/// The endpoints' origins, as marked in the plugin's schema.
pub fn endpoints(config: &Json) -> Arc<[Origin]> {
    let url = config.get("token_url").and_then(Json::as_str);
    let url = url.and_then(|url| url::Url::parse(url).ok());
    url.and_then(|url| Origin::of(&url)).into_iter().collect()
}

impl OAuth2 {
    async fn run(&self, job: &Job, call: &Call) -> Result<Token, Unsuccessful> {
        let is_refresh = job.source.secrets.contains_key(REFRESH_TOKEN);
        let request = request(job, call, is_refresh)
            .await
            .map_err(Unsuccessful::Said)?;
        let response = call.send(request).await.map_err(Unsuccessful::Said)?;
        self.saw(&response);
        self.break_if_due(is_refresh).await?;
        let answer = read(&response).map_err(Unsuccessful::Said)?;
        // What follows may fail: the issuer is available.
        self.world.facts().is_served(self.job);
        if answer.is_whole {
            self.ask_more(job, call, &answer)
                .await
                .map_err(Unsuccessful::Said)?;
        }
        if is_refresh && let Some(successor) = answer.text(REFRESH_TOKEN) {
            let idle = answer.members.get("refresh_expires_in");
            let idle = idle.and_then(Json::as_u64);
            let dies = idle.map(|seconds| response.sent_at.after(Duration::from_secs(seconds)));
            call.replace(REFRESH_TOKEN, Value::Text(successor.to_owned()), dies)
                .await
                .map_err(Unsuccessful::Said)?;
        }
        token(&answer, response.sent_at).map_err(Unsuccessful::Said)
    }

    /// From here on the process must not lose what is in the answer.
    fn saw(&self, response: &Response) {
        let header = |(name, value): &(String, String)| {
            (name == EXCHANGE_HEADER)
                .then(|| value.parse().ok())
                .flatten()
        };
        let Some(id) = response.headers.iter().find_map(header) else {
            return;
        };
        let now = self.world.time.now();
        let mut facts = self.world.facts();
        if response.status < 400 {
            facts.ledger.seen(id);
        } else if is_invalid_grant(response) && facts.store_failed.is_empty() {
            facts.ledger.refused(id);
        }
        if (400..500).contains(&response.status) && response.status != 429 {
            // A refusal is no outage.
            facts.is_served(self.job);
        }
        facts.note(
            now,
            format_args!("job {} sees the answer to exchange {id}", self.job),
        );
    }

    async fn break_if_due(&self, is_refresh: bool) -> Result<(), Unsuccessful> {
        let now = self.world.time.now();
        let struck = {
            let mut facts = self.world.facts();
            let struck = facts.strikes(now, |part| {
                part == Part::Traps(self.job) || part == Part::Hangs(self.job)
            });
            if struck.is_some() {
                let end = now + Duration::from_secs(30);
                facts.hinder(self.job, now, end, "a plugin that broke");
                // The answer is stored, and the jobs on the same chain receive it.
                let client = facts.jobs.get(self.job).map(|job| job.client.clone());
                if let Some(client) = client.filter(|_| is_refresh) {
                    facts.hinder_client(&client, now, end, "a plugin that broke");
                }
            }
            struck
        };
        match struck {
            Some(Part::Traps(_)) => Err(Unsuccessful::Broke(Failure::new(
                FailureKind::Internal,
                "plugin.trap",
                "the model traps",
            ))),
            Some(_) => std::future::pending().await,
            None => Ok(()),
        }
    }

    async fn ask_more(&self, job: &Job, call: &Call, answer: &Members) -> Result<(), Failure> {
        let habit = self
            .world
            .scenario
            .jobs
            .get(self.job)
            .map(|plan| plan.habit);
        if habit != Some(Habit::AsksMore) {
            return Ok(());
        }
        let token = answer.text("access_token");
        let url = job.source.config.get("user_url").and_then(Json::as_str);
        let response = call
            .send(Request {
                method: "GET".to_owned(),
                url: url.unwrap_or_default().to_owned(),
                query: Vec::new(),
                headers: vec![(
                    "authorization".to_owned(),
                    Value::Text(format!("Bearer {}", token.unwrap_or_default())),
                )],
                body: Body::Empty,
            })
            .await?;
        if response.status == 200 {
            Ok(())
        } else {
            Err(refused(&response, None))
        }
    }
}

async fn request(job: &Job, call: &Call, is_refresh: bool) -> Result<Request, Failure> {
    let text = |name: &str| {
        let value = job.source.config.get(name).and_then(Json::as_str);
        value.unwrap_or_default().to_owned()
    };
    let field = |name: &str, value: Value| (name.to_owned(), value);
    let mut fields = vec![field("client_id", Value::Text(text("client_id")))];
    if is_refresh {
        let refresh_token = call.open(REFRESH_TOKEN).await?;
        fields.push(field("grant_type", Value::Text("refresh_token".to_owned())));
        fields.push(field(REFRESH_TOKEN, Value::Secret(refresh_token)));
    } else {
        let secret = call.open(CLIENT_SECRET).await?;
        fields.push(field(
            "grant_type",
            Value::Text("client_credentials".to_owned()),
        ));
        fields.push(field(CLIENT_SECRET, Value::Secret(secret)));
    }
    Ok(Request {
        method: "POST".to_owned(),
        url: text("token_url"),
        query: Vec::new(),
        headers: Vec::new(),
        body: Body::Form(fields),
    })
}

/// The answer as the SDK reads it.
fn read(response: &Response) -> Result<Members, Failure> {
    let Content::Members(members) = evertoken_answer::read(None, &response.body) else {
        return Err(if response.status == 200 {
            Failure::new(
                FailureKind::Unavailable,
                "answer.unreadable",
                "the issuer's answer is no JSON",
            )
        } else {
            refused(response, None)
        });
    };
    let error = members.text("error");
    if response.status != 200 || error.is_some() {
        return Err(refused(response, error));
    }
    Ok(members)
}

fn refused(response: &Response, error: Option<&str>) -> Failure {
    let kind = match (response.status, error) {
        (300..400 | 429 | 500.., _) | (_, Some("temporarily_unavailable")) => {
            FailureKind::Unavailable
        }
        _ => FailureKind::Denied,
    };
    let retry_after = response
        .headers
        .iter()
        .find(|(name, _)| name == "retry-after")
        .and_then(|(_, value)| value.parse().ok())
        .map(Duration::from_secs);
    Failure {
        retry_after,
        ..Failure::new(
            kind,
            error.unwrap_or("http.status"),
            format!("the issuer answers {}", response.status),
        )
    }
}

fn is_invalid_grant(response: &Response) -> bool {
    read(response).is_err_and(|failure| failure.code() == Some("invalid_grant"))
}

fn token(answer: &Members, sent_at: Timestamp) -> Result<Token, Failure> {
    let value = answer
        .text("access_token")
        .filter(|_| answer.is_whole)
        .ok_or_else(|| {
            Failure::new(
                FailureKind::Unavailable,
                "answer.cut",
                "the issuer's answer has no access_token, or no end",
            )
        })?;
    let expires_in = answer.members.get("expires_in").and_then(Json::as_u64);
    Ok(Token {
        value: value.into(),
        token_type: "Bearer".to_owned(),
        expiry: expires_in.map_or(Expiry::Unknown, |seconds| {
            Expiry::At(sent_at.after(Duration::from_secs(seconds)))
        }),
        fields: Vec::new(),
    })
}
