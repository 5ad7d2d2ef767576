//! The journal from the view of its users: an issuer that rotates, a source that may fail at any point, a process that may end at
//! any point.

mod world;

use std::sync::Arc;
use std::time::Duration;

use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use secrecy::ExposeSecret as _;

use self::world::{Reply, Script, World, code};
use crate::capability::acquire::Unsuccessful;
use crate::capability::chain::{Chain, ChainState, MAX_REPLAYS, OVERTAKEN_WITHIN};
use crate::capability::http::Arrived;
use crate::capability::testing::NOW;
use crate::model::RetryUnanswered;
use crate::model::failure::{Failure, FailureKind};

fn said(kind: FailureKind) -> Script {
    Script::fails(Unsuccessful::Said(Failure::new(kind, "said", "it says so")))
}

fn breaks() -> Script {
    Script::fails(Unsuccessful::Broke(Failure::new(
        FailureKind::Internal,
        "plugin.trap",
        "it broke",
    )))
}

#[tokio::test]
async fn a_request_is_written_down_before_it_is_sent_and_its_answer_before_the_source_sees_it() {
    let world = World::new();
    world.acquire().await.unwrap();
    let sent = world.seen_at_the_issuer();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].value, "seed");
    assert!(sent[0].was_intended && !sent[0].had_answer);
    assert!(world.answer_was_kept_when_the_source_saw_it());
}

#[tokio::test]
async fn the_successor_is_used_next() {
    let world = World::new();
    world.acquire().await.unwrap();
    world.acquire().await.unwrap();
    assert_eq!(world.values_sent(), ["seed", "rt-1"]);
    let chain = world.chain().await;
    assert_eq!((chain.generation, chain.unanswered), (2, 0));
    assert!(chain.exchange.is_none());
}

#[tokio::test]
async fn without_a_successor_the_value_stays() {
    let world = World::new();
    world.issuer(Reply::without_successor());
    world.acquire().await.unwrap();
    world.acquire().await.unwrap();
    assert_eq!(world.values_sent(), ["seed", "seed"]);
    assert!(world.chain().await.exchange.is_none());
}

#[tokio::test]
async fn an_answer_that_the_source_could_not_use_is_given_to_it_again_and_nobody_is_asked() {
    for script in [
        breaks(),
        said(FailureKind::Internal),
        said(FailureKind::InvalidConfig),
        Script::hangs(),
    ] {
        let world = World::new();
        world.source(script);
        world.acquire().await.unwrap_err();
        world.source(Script::Works);
        assert_eq!(world.acquire().await.unwrap(), "at-1");
        assert_eq!(world.values_sent(), ["seed"]);
        assert!(world.chain().await.has_newest(b"rt-1"));
    }
}

#[tokio::test]
async fn a_process_that_ends_between_exchange_and_save_loses_nothing() {
    let mut world = World::new();
    world.source(Script::hangs());
    world.acquire().await.unwrap_err();
    world.restart();
    world.source(Script::Works);
    assert_eq!(world.acquire().await.unwrap(), "at-1");
    assert_eq!(world.acquire().await.unwrap(), "at-2");
    assert_eq!(world.values_sent(), ["seed", "rt-1"]);
}

#[tokio::test]
async fn an_answer_that_brought_nothing_is_closed_and_the_value_is_sent_again() {
    for kind in [FailureKind::Denied, FailureKind::Unavailable] {
        let world = World::new();
        world.source(said(kind));
        world.acquire().await.unwrap_err();
        assert!(world.chain().await.exchange.is_none());
        world.source(Script::Works);
        world.acquire().await.unwrap();
        assert_eq!(world.values_sent(), ["seed", "seed"]);
    }
}

#[tokio::test]
async fn an_answer_stays_when_what_the_source_asked_after_it_failed() {
    for kind in [FailureKind::Denied, FailureKind::Unavailable] {
        let world = World::new();
        world.source(Script::asks_another_first(kind));
        world.acquire().await.unwrap_err();
        world.source(Script::Works);
        assert_eq!(world.acquire().await.unwrap(), "at-1");
        assert_eq!(world.values_sent(), ["seed"]);
    }
}

#[tokio::test]
async fn an_exchange_goes_on_when_the_source_is_stopped() {
    let world = World::new();
    world.issuer(Reply::after(Duration::from_millis(300)));
    let acquire = tokio::time::timeout(Duration::from_millis(100), world.acquire());
    acquire.await.unwrap_err();
    assert_eq!(world.acquire().await.unwrap(), "at-1");
    assert_eq!(world.values_sent(), ["seed"]);
}

#[tokio::test]
async fn a_request_that_never_left_costs_nothing() {
    let world = World::new();
    world.issuer(Reply::unreachable());
    for _ in 0..10 {
        let failure = world.acquire().await.unwrap_err();
        assert_eq!(code(&failure), "http.connect");
    }
    assert_eq!(world.chain().await.unanswered, 0);
    world.issuer(Reply::rotates());
    world.acquire().await.unwrap();
}

#[tokio::test]
async fn after_a_lost_answer_one_more_request_is_sent_soon_and_further_ones_half_a_minute_apart() {
    let world = World::new();
    world.issuer(Reply::is_lost());
    let failure = world.acquire().await.unwrap_err();
    assert_eq!(code(&failure), "http.protocol");
    assert_eq!(world.values_sent(), ["seed", "seed"]);
    let failure = world.acquire().await.unwrap_err();
    assert_eq!(code(&failure), "chain.in-doubt");
    assert_eq!(failure.kind, FailureKind::Unavailable);
    assert_eq!(failure.retry_after, Some(Duration::from_secs(30)));
    assert_eq!(world.values_sent().len(), 2);
    world.pass(Duration::from_secs(30));
    world.acquire().await.unwrap_err();
    assert_eq!(world.values_sent().len(), 3);
}

/// The first request may still be on its way: if it arrived last, the issuer would take it for a replay and revoke the chain.
#[tokio::test]
async fn a_repeated_request_does_not_overtake_the_first_one() {
    let world = World::new();
    world.issuer(Reply::is_lost());
    world.acquire().await.unwrap_err();
    let [first, second] = &world.seen_at_the_issuer()[..] else {
        panic!("two were sent");
    };
    assert!(second.at - first.at > OVERTAKEN_WITHIN.mul_f64(0.9));
}

#[tokio::test]
async fn requests_are_counted_across_restarts() {
    let mut world = World::new();
    world.secret(|secret| {
        secret.retry_unanswered = RetryUnanswered::After(Duration::from_secs(1));
    });
    world.issuer(Reply::is_lost());
    for _ in 0..2 {
        world.acquire().await.unwrap_err();
        world.restart();
        world.pass(Duration::from_secs(1));
    }
    let failure = world.acquire().await.unwrap_err();
    assert_eq!(code(&failure), "chain.in-doubt");
}

#[tokio::test]
async fn a_job_may_forbid_a_second_request() {
    let mut world = World::new();
    world.secret(|secret| secret.retry_unanswered = RetryUnanswered::Never);
    world.issuer(Reply::is_lost());
    world.acquire().await.unwrap_err();
    let failure = world.acquire().await.unwrap_err();
    assert_eq!(code(&failure), "chain.needs-attention");
    assert_eq!(world.values_sent().len(), 1);
}

#[tokio::test]
async fn a_server_that_fails_leaves_doubt_and_a_limit_on_requests_leaves_none() {
    let world = World::new();
    world.issuer(Reply::status(503, ""));
    world.acquire().await.unwrap_err();
    assert_eq!(world.chain().await.unanswered, 1);
    world.issuer(Reply::status(429, ""));
    world.acquire().await.unwrap_err();
    assert_eq!(world.chain().await.unanswered, 0);
}

/// No token was issued: as after a failure, the value is valid and is sent again, without an operator.
#[tokio::test]
async fn an_answer_that_issued_nothing_leaves_the_chain_as_it_was() {
    for answer in [
        "HTTP/1.1 302 Found\r\nlocation: https://idp.test/sorry\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 301 Moved\r\ncontent-length: 99\r\n\r\n<html>cut",
        "HTTP/1.1 307 Elsewhere\r\nconnection: close\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\n  \r\n",
        "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\n<!doctype html><h1>Back soon</h1>",
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n<html>Back soon</html>",
        "HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n<html>Back so",
        "HTTP/1.1 200 OK\r\n\r\nBack soon",
        "HTTP/1.1 200 OK\r\n\r\n[]",
        "HTTP/1.1 200 OK\r\n\r\nnull",
        "HTTP/1.1 200 OK\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\n\r\n{\"message\":\"back soon\"}",
        "HTTP/1.1 200 OK\r\n\r\n{\"error\":\"temporarily_unavailable\"}",
        "HTTP/1.1 403 Forbidden\r\n\r\n<html>blocked</html>",
        "HTTP/1.1 404 Not Found\r\n\r\n",
        "HTTP/1.1 429 Slow Down\r\n\r\n",
    ] {
        let world = World::new();
        world.issuer(Reply::raw(answer));
        for _ in 0..3 {
            world.acquire().await.unwrap_err();
        }
        let chain = world.chain().await;
        assert_eq!((chain.unanswered, chain.dead_since), (0, None), "{answer}");
        assert!(chain.exchange.is_none(), "{answer}");
        world.issuer(Reply::rotates());
        assert_eq!(world.acquire().await.unwrap(), "at-1", "{answer}");
        assert_eq!(world.values_sent(), ["seed"; 4], "{answer}");
    }
}

#[tokio::test]
async fn an_answer_that_is_cut_behind_the_successor_keeps_the_chain() {
    let body = r#"{"access_token":"at-1","expires_in":3600,"refresh_token":"rt-1"}"#;
    for missing in 0..body.len() {
        let mut world = World::new();
        world.secret(|secret| secret.retry_unanswered = RetryUnanswered::Never);
        world.issuer(Reply::breaks_off(missing));
        let first = world.acquire().await;
        world.issuer(Reply::rotates());
        let has_successor = missing <= 1;
        assert_eq!(first.is_ok(), missing == 0, "{missing}");
        if has_successor {
            world.acquire().await.unwrap();
            assert_eq!(world.values_sent(), ["seed", "rt-1"], "{missing}");
        } else {
            // In doubt: the partial answer is kept while the value is sent again.
            let chain = world.chain().await;
            assert!(chain.unread.is_some() || chain.generation > 0, "{missing}");
        }
    }
}

/// Half an hour of tries with an answer that the plugin cannot read; then the job goes on without a person: with the refresh
/// token that the host finds in it, or, if there is none, as if it had never come.
#[tokio::test]
async fn an_answer_that_no_plugin_can_read_does_not_stop_the_job_for_ever() {
    for (reply, next) in [
        (Reply::rotates(), "rt-1"),
        (Reply::raw("HTTP/1.1 200 OK\r\n\r\nopaque"), "seed"),
    ] {
        let world = World::new();
        world.issuer(reply);
        world.source(breaks());
        for _ in 0..=MAX_REPLAYS {
            world.acquire().await.unwrap_err();
            assert_eq!(world.values_sent(), ["seed"]);
            world.pass(Duration::from_secs(300));
        }
        world.source(Script::Works);
        world.issuer(Reply::rotates());
        world.acquire().await.unwrap();
        assert_eq!(world.values_sent(), ["seed", next]);
        let chain = world.chain().await;
        assert!(chain.unread.is_none() && chain.exchange.is_none());
    }
}

/// A source that cannot read an answer may report that the issuer is unavailable.
#[tokio::test]
async fn an_answer_in_a_coding_that_is_not_known_is_never_taken_for_nothing() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\ncontent-encoding: x-new\r\n\r\nopaque"[..],
        b"HTTP/1.1 200 OK\r\ncontent-encoding: x-new\r\n\r\n\xff\xfe\x00",
        b"HTTP/1.1 200 OK\r\n\r\n\x5d\x00\x00\x80\xff\xfe",
    ] {
        for kind in [FailureKind::Denied, FailureKind::Unavailable] {
            let world = World::new();
            world.issuer(Reply::raw(answer));
            world.source(said(kind));
            for _ in 0..3 {
                world.acquire().await.unwrap_err();
            }
            let what = String::from_utf8_lossy(answer);
            assert_eq!(world.values_sent(), ["seed"], "{what} {kind:?}");
            assert!(world.chain().await.answer().is_some(), "{what} {kind:?}");
        }
    }
}

#[tokio::test]
async fn the_successor_is_found_in_an_answer_that_nobody_asked_to_be_coded() {
    let body = br#"{"access_token":"at-1","expires_in":3600,"refresh_token":"rt-1"}"#;
    let coded = compress_to_vec(&body[..], CompressionLevel::Fastest);
    let world = World::new();
    world.issuer(Reply::raw(
        [
            b"HTTP/1.1 200 OK\r\ncontent-encoding: zstd\r\n\r\n",
            &coded[..],
        ]
        .concat(),
    ));
    assert_eq!(world.acquire().await.unwrap(), "at-1");
    assert!(world.chain().await.has_newest(b"rt-1"));
}

const TOKENS: &str = r#"{"access_token":"at-1","expires_in":3600,"refresh_token":"rt-1"}"#;

/// A process that ends while the connection of a partial answer stays open.
async fn killed_while_waiting_after(bytes: &str) -> World {
    let mut world = World::new();
    world.secret(|secret| secret.retry_unanswered = RetryUnanswered::Never);
    world.issuer(Reply::stalls_after(bytes));
    let acquire = tokio::time::timeout(Duration::from_millis(600), world.acquire());
    acquire.await.unwrap_err();
    world.restart();
    world.issuer(Reply::rotates());
    world
}

#[tokio::test]
async fn what_came_of_an_answer_is_there_after_a_kill_while_the_rest_is_missing() {
    for (answer, is_replayed, next) in [
        (
            format!("HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n{TOKENS}"),
            true,
            "rt-1",
        ),
        (format!("HTTP/1.1 200 OK\r\n\r\n{TOKENS}"), true, "rt-1"),
        (
            format!(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{TOKENS}\r\n",
                TOKENS.len()
            ),
            true,
            "rt-1",
        ),
        (
            format!("HTTP/1.1 200 OK\r\n\r\n{}", TOKENS.trim_end_matches('}')),
            false,
            "rt-1",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nrefresh_token=rt-1&access_token=a"
                .to_owned(),
            false,
            "rt-1",
        ),
        (
            "HTTP/1.1 302 Found\r\nlocation: https://idp.test/sorry\r\n\r\n".to_owned(),
            false,
            "seed",
        ),
        (
            "HTTP/1.1 404 Not Found\r\ncontent-length: 99\r\n\r\n<html>".to_owned(),
            false,
            "seed",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n<html>Back so".to_owned(),
            false,
            "seed",
        ),
    ] {
        let world = killed_while_waiting_after(&answer).await;
        if is_replayed {
            assert_eq!(world.acquire().await.unwrap(), "at-1", "{answer}");
            assert_eq!(world.values_sent(), ["seed"], "{answer}");
        }
        let _ = world.acquire().await;
        world.acquire().await.unwrap();
        assert_eq!(
            world.values_sent().get(1).map(String::as_str),
            Some(next),
            "{answer}"
        );
        assert_eq!(world.chain().await.unanswered, 0, "{answer}");
    }
}

#[tokio::test]
async fn what_came_of_an_answer_and_does_not_tell_leaves_doubt_and_is_kept() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{\"access_token\":\"at-1\",\"refr",
        "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\naccess_token=at-1&refresh_token=rt",
        "HTTP/1.1 200 OK\r\ncontent-type: application/js",
        "HTTP/1.1 503 Away\r\ncontent-length: 99\r\n\r\n",
    ] {
        let world = killed_while_waiting_after(answer).await;
        let failure = world.acquire().await.unwrap_err();
        assert_eq!(code(&failure), "chain.needs-attention", "{answer}");
        assert_eq!(world.values_sent(), ["seed"], "{answer}");
        let chain = world.chain().await;
        let unread = chain.unread.and_then(|unread| unread.answer).unwrap();
        assert_eq!(unread.bytes, answer.as_bytes());
    }
}

/// Each write costs a disk's or an API server's time.
#[tokio::test]
async fn an_answer_that_comes_at_once_takes_three_writes_and_one_that_drips_a_few_more() {
    let answer = format!("HTTP/1.1 200 OK\r\n\r\n{TOKENS}");
    let some = answer.len() / 4;
    for (wait_ms, size, at_most) in [(0, 2, 3), (1, some, 3), (30, 2, 7)] {
        let world = World::new();
        world.issuer(Reply::pieces(
            answer.as_bytes().chunks(size),
            Duration::from_millis(wait_ms),
        ));
        world.acquire().await.unwrap();
        let writes = world.changes();
        assert!((3..=at_most).contains(&writes), "{writes} at {wait_ms} ms");
    }
}

/// The store applied the change and reported a failure: the answer is stored all the same.
#[tokio::test]
async fn an_answer_is_kept_whatever_became_of_the_writes_of_its_parts() {
    let answer = format!("HTTP/1.1 200 OK\r\n\r\n{TOKENS}");
    let world = World::new();
    world.store_forgets_to_answer_to_parts();
    world.issuer(Reply::pieces(
        answer.as_bytes().chunks(30),
        Duration::from_millis(200),
    ));
    assert_eq!(world.acquire().await.unwrap(), "at-1");
    assert_eq!(world.values_sent(), ["seed"]);
    assert!(world.chain().await.has_newest(b"rt-1"));
}

/// A later version may read more: a fragment for this one is given to the source as soon as it can be read.
#[tokio::test]
async fn an_answer_that_was_not_understood_is_used_once_it_is() {
    let mut world = World::new();
    world.secret(|secret| secret.retry_unanswered = RetryUnanswered::Never);
    world.issuer(Reply::breaks_off(20));
    world.acquire().await.unwrap_err();
    let failure = world.acquire().await.unwrap_err();
    assert_eq!(code(&failure), "chain.needs-attention");
    let understood = |chain: &mut Chain| {
        let answer = chain.unread.as_mut().unwrap().answer.as_mut().unwrap();
        answer.bytes = b"{\"access_token\":\"at-9\",\"refresh_token\":\"rt-9\"}".to_vec();
    };
    world.rewrite(understood).await;
    world.restart();
    assert_eq!(world.acquire().await.unwrap(), "at-9");
    assert_eq!(world.values_sent(), ["seed"]);
    assert!(world.chain().await.has_newest(b"rt-9"));
}

#[tokio::test]
async fn a_dead_chain_is_never_sent_again_until_a_new_value_is_configured() {
    let mut world = World::new();
    let long = "x".repeat(10_000);
    let refusal = format!(
        r#"{{"error":"invalid_grant","error_description":"Session of seed\u001b[31m not active {long}"}}"#
    );
    world.issuer(Reply::status(400, &refusal));
    world.acquire().await.unwrap_err();
    for _ in 0..3 {
        let failure = world.acquire().await.unwrap_err();
        assert_eq!(
            (failure.kind, code(&failure)),
            (FailureKind::Denied, "chain.dead")
        );
        // The issuer's reason outlives the process, without secrets and control characters.
        assert!(
            failure.message.contains("(invalid_grant: Session of "),
            "{failure}"
        );
        assert!(failure.message.contains("not active"), "{failure}");
        assert!(
            !failure.message.contains("seed") && !failure.message.contains('\u{1b}'),
            "{failure}"
        );
        assert!(failure.message.len() < 600, "{failure}");
        world.restart();
    }
    assert_eq!(world.values_sent(), ["seed"]);
    world.issuer(Reply::rotates());
    world.configure("another login");
    world.acquire().await.unwrap();
    assert_eq!(world.values_sent(), ["seed", "another login"]);
}

#[tokio::test]
async fn what_became_of_a_chain_is_known_at_once_to_all_its_jobs_and_after_a_restart() {
    let mut world = World::new();
    assert_eq!(world.look("a").await, None, "nothing is kept yet");
    for name in ["a", "b"] {
        world.acquire_for(name).await.unwrap();
        assert_eq!(world.chain_state(name), Some(ChainState::Ok));
    }
    world.issuer(Reply::status(400, r#"{"error":"invalid_grant"}"#));
    world.acquire_for("a").await.unwrap_err();
    for restarts in 0..2 {
        for name in ["a", "b"] {
            let known = world.chain_state(name);
            assert_eq!(known, Some(ChainState::Dead), "{name} {restarts}");
        }
        world.restart();
        assert_eq!(world.look("a").await, Some(ChainState::Dead));
        assert_eq!(world.look("b").await, Some(ChainState::Dead));
    }
    world.configure("another login");
    assert_eq!(world.look("a").await, Some(ChainState::Ok));
}

#[tokio::test]
async fn a_login_that_came_while_the_old_one_was_refused_is_used_at_once() {
    let world = World::new();
    world.issuer(Reply::refuses_and_a_person_logs_in("another login"));
    world.acquire().await.unwrap();
    assert_eq!(world.values_sent(), ["seed", "another login"]);
}

#[tokio::test]
async fn a_late_answer_to_an_earlier_login_does_not_take_the_secret_back() {
    let mut world = World::new();
    world.issuer(Reply::after(Duration::from_millis(300)));
    let acquire = tokio::time::timeout(Duration::from_millis(100), world.acquire());
    acquire.await.unwrap_err();
    world.configure("another login");
    world.issuer(Reply::rotates());
    world.acquire().await.unwrap();
    let successor = world.chain().await.value;
    tokio::time::sleep(Duration::from_millis(400)).await;
    // The configured value cannot be read: the secret stands for the chain that it used last.
    world.loses_login();
    world.acquire().await.unwrap();
    let sent = world.values_sent();
    assert_eq!(sent[..2], ["seed", "another login"]);
    assert_eq!(sent[2].as_bytes(), successor.expose_secret());
}

#[tokio::test]
async fn a_spent_value_from_a_backup_is_not_sent() {
    let mut world = World::new();
    world.acquire().await.unwrap();
    world.configure("rt-1");
    world.acquire().await.unwrap();
    world.configure("seed");
    world.acquire().await.unwrap();
    assert_eq!(world.values_sent(), ["seed", "rt-1", "rt-2"]);
}

/// A renamed job finds its chain only by the configured value. If that becomes readable between looking up the chain and using
/// it, it may be a value that was spent long ago.
#[tokio::test]
async fn a_value_that_was_out_of_reach_when_its_chain_was_looked_for_is_not_sent() {
    let world = World::new();
    world.acquire().await.unwrap();
    world.loses_login();
    world.source(Script::finds_login("seed"));
    let failure = world.acquire_for("renamed").await.unwrap_err();
    assert_eq!(code(&failure), "chain.changed");
    assert_eq!(failure.kind, FailureKind::Unavailable);
    assert_eq!(world.values_sent(), ["seed"]);
    world.source(Script::Works);
    world.acquire_for("renamed").await.unwrap();
    assert_eq!(world.values_sent().len(), 2);
    assert_ne!(world.values_sent()[1], "seed");
}

#[tokio::test]
async fn a_second_request_with_the_same_value_is_not_sent() {
    let world = World::new();
    world.source(Script::sends_twice());
    let failure = world.acquire().await.unwrap_err();
    assert_eq!(code(&failure), "chain.needs-attention");
    assert_eq!(world.values_sent(), ["seed"]);
    world.source(Script::Works);
    assert_eq!(world.acquire().await.unwrap(), "at-1");
}

#[tokio::test]
async fn an_answer_is_read_with_the_configuration_that_it_was_asked_for_with_and_then_the_present_one_counts()
 {
    let mut world = World::new();
    world.source(breaks());
    world.acquire().await.unwrap_err();
    world.source(Script::Works);
    world.reconfigure(serde_json::json!({"scope": "another"}));
    assert_eq!(world.acquire().await.unwrap(), "at-2");
    let asked_with = world.configurations_of_calls();
    assert_eq!(asked_with, ["{}", "{}", r#"{"scope":"another"}"#]);
    assert_eq!(world.values_sent(), ["seed", "rt-1"]);
}

#[tokio::test]
async fn while_an_answer_is_read_nothing_goes_where_the_present_configuration_does_not_send() {
    let elsewhere = serde_json::json!({"endpoint": "https://new-idp.test"});
    let mut world = World::new();
    world.source(breaks());
    world.acquire().await.unwrap_err();
    world.reconfigure(elsewhere);
    world.lists_another_secret("other");
    // The answer is stored; the plugin's further requests have none.
    world.source(Script::AsksAnotherWith("other"));
    let failure = world.acquire().await.unwrap_err();
    assert!(failure.message.contains("has it no more"), "{failure}");
    // A secret may be sent to an origin in `allow` if its `to` names it. Otherwise the current configuration applies.
    world.allows("https://idp.test");
    world.acquire().await.unwrap_err();
    let failure = world.acquire().await.unwrap_err();
    assert!(failure.message.contains("has it no more"), "{failure}");
    world.acquire().await.unwrap_err();
    world.source(Script::AsksAnother(FailureKind::Unavailable));
    let failure = world.acquire().await.unwrap_err();
    assert_eq!(code(&failure), "userinfo");
    assert_eq!(world.values_sent(), ["seed"]);
}

#[tokio::test]
async fn a_mended_configuration_gets_an_answer_that_the_old_one_could_not_read() {
    let mut world = World::new();
    world.source(breaks());
    world.acquire().await.unwrap_err();
    world.reconfigure(serde_json::json!({"scope": "mended"}));
    world.source(Script::works_with(r#"{"scope":"mended"}"#));
    let failure = world.acquire().await.unwrap_err();
    assert_eq!(code(&failure), "chain.needs-attention");
    assert_eq!(world.acquire().await.unwrap(), "at-1");
    assert_eq!(world.values_sent(), ["seed"]);
}

#[tokio::test]
async fn a_replayed_token_that_has_expired_settles_the_successor_and_another_is_obtained() {
    let world = World::new();
    world.source(breaks());
    world.acquire().await.unwrap_err();
    world.source(Script::Works);
    world.pass(Duration::from_secs(86_400));
    assert_eq!(world.acquire().await.unwrap(), "at-2");
    assert_eq!(world.values_sent(), ["seed", "rt-1"]);
}

#[tokio::test]
async fn a_call_looks_for_its_chain_once() {
    let world = World::new();
    for calls in 1..4 {
        world.acquire().await.unwrap();
        assert_eq!(world.finds(), calls);
    }
}

#[tokio::test]
async fn two_jobs_on_one_refresh_token_take_turns() {
    let world = Arc::new(World::new());
    world.issuer(Reply::after(Duration::from_millis(50)));
    let (one, other) = tokio::join!(world.acquire(), world.acquire_for("other"));
    let mut tokens = [one.unwrap(), other.unwrap()];
    tokens.sort();
    assert_eq!(tokens, ["at-1", "at-2"]);
    assert_eq!(world.values_sent(), ["seed", "rt-1"]);
}

#[tokio::test]
async fn a_job_that_settles_anothers_answer_gets_a_token_of_its_own() {
    let world = World::new();
    world.source(breaks());
    world.acquire().await.unwrap_err();
    world.source(Script::Works);
    assert_eq!(world.acquire_for("other").await.unwrap(), "at-2");
    assert_eq!(world.values_sent(), ["seed", "rt-1"]);
}

#[tokio::test]
async fn an_answer_is_written_until_it_is_kept() {
    let world = World::new();
    world.store_fails_after_the_exchange(3);
    world.acquire().await.unwrap();
    assert_eq!(world.values_sent(), ["seed"]);
    assert!(world.chain().await.has_newest(b"rt-1"));
}

#[tokio::test]
async fn without_a_durable_intent_nothing_is_sent() {
    let world = World::new();
    world.store_fails(1);
    world.acquire().await.unwrap_err();
    assert!(world.values_sent().is_empty());
    world.acquire().await.unwrap();
}

#[tokio::test]
async fn a_successor_that_could_not_be_stored_is_had_again_from_the_answer() {
    let world = World::new();
    world.successor_cannot_be_stored(true);
    world.acquire().await.unwrap_err();
    world.successor_cannot_be_stored(false);
    assert_eq!(world.acquire().await.unwrap(), "at-1");
    assert_eq!(world.values_sent(), ["seed"]);
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_recognized_as_ones_own() {
    let world = World::new();
    world.store_forgets_to_answer();
    world.acquire().await.unwrap_err();
    world.acquire().await.unwrap();
    assert_eq!(world.values_sent(), ["seed"]);
    assert_eq!(world.chain().await.unanswered, 0);
}

#[tokio::test]
async fn another_processs_intent_is_left_alone_until_it_is_over() {
    let mut world = World::new();
    world.is_shared_by_processes();
    world.issuer(Reply::is_lost());
    world.acquire_without_writing_its_end().await;
    world.restart();
    world.issuer(Reply::rotates());
    let failure = world.acquire().await.unwrap_err();
    assert_eq!(code(&failure), "chain.in-use");
    assert_eq!(failure.retry_after, Some(Duration::from_secs(5)));
    world.pass(Duration::from_secs(70));
    let failure = world.acquire().await.unwrap_err();
    assert_eq!(
        code(&failure),
        "chain.in-use",
        "whoever wakes from sleep may write down its answer first"
    );
    world.pass(Duration::from_secs(5));
    world.acquire().await.unwrap();
    assert_eq!(world.values_sent(), ["seed", "seed"]);
}

#[tokio::test]
async fn an_answer_that_could_not_be_kept_is_put_on_what_another_process_made_of_the_chain() {
    type Theirs = fn(&Chain) -> Chain;
    let takes_it_up: Theirs = |chain| chain.intending(chain.exchange.clone().unwrap().intent);
    let cases: [(&str, Theirs, &[&str]); 5] = [
        ("took it up", takes_it_up, &["seed", "rt-1"]),
        (
            "and sent nothing",
            |chain| chain.unsent(),
            &["seed", "rt-1"],
        ),
        (
            "and was told nothing",
            |chain| chain.in_doubt(Arrived::nothing_yet(NOW)),
            &["seed", "rt-1"],
        ),
        (
            "and was refused",
            |chain| chain.died(NOW, None),
            &["seed", "rt-1"],
        ),
        (
            "and has another successor",
            |chain| chain.succeeded_by(b"theirs".to_vec().into(), None),
            &["seed", "theirs"],
        ),
    ];
    let cases = cases.into_iter().flat_map(|case| [(case, 1), (case, 3)]);
    for ((what, theirs, sent), failures) in cases {
        let world = World::new();
        world.is_shared_by_processes();
        world.store_fails_after_the_exchange(failures);
        let meanwhile = async {
            while world.seen_at_the_issuer().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            let changed = |chain: &mut Chain| {
                *chain = Chain {
                    change: [9; 16],
                    ..theirs(chain)
                };
            };
            world.rewrite(changed).await;
        };
        let (_, ()) = tokio::join!(world.acquire(), meanwhile);
        world.acquire().await.unwrap();
        assert_eq!(world.values_sent(), sent, "{what}, {failures} failures");
    }
}

#[tokio::test]
async fn an_earlier_value_that_the_issuer_repeats_is_scrubbed_too() {
    let world = World::new();
    world.acquire().await.unwrap();
    world.source(Script::repeats("the value seed is spent, rt-1 is not"));
    let failure = world.acquire().await.unwrap_err();
    assert_eq!(
        failure.message,
        "the value [redacted] is spent, [redacted] is not"
    );
}
