//! What a person sees and may do, by the state of a chain.

use std::time::Duration;

use super::*;
use crate::capability::chain::PluginId;
use crate::capability::http::Arrived;
use crate::model::time::Reading;
use crate::state::MemoryState;

const NOW: Timestamp = Timestamp(1_700_000_000_000);
const US: Holder = Holder([1; 16]);
const OTHERS: Holder = Holder([2; 16]);

struct Standing(Timestamp);

impl Clock for Standing {
    fn now(&self) -> Reading {
        Reading {
            wall: self.0,
            boot: Duration::from_secs(1000),
        }
    }
}

fn first(store: &Store) -> Chain {
    Chain::new(
        store.chain_id(&JobId::file("job"), b"seed"),
        b"seed".to_vec().into(),
    )
}

fn intent(holder: Holder) -> Intent {
    Intent {
        holder,
        written_at: NOW,
        not_after: NOW.after(Duration::from_secs(30)),
        method: "POST".to_owned(),
        url: "https://idp.test/token".to_owned(),
        job: JobId::file("a"),
        plugin: PluginId::default(),
        config: serde_json::Value::Null,
    }
}

fn answer() -> Arrived {
    Arrived {
        sent_at: NOW,
        bytes: b"secret-answer".to_vec(),
    }
}

/// A store whose job `a` has this chain, `seconds` after NOW, for the process `us`.
async fn with(
    state: MemoryState,
    chain: impl FnOnce(Chain) -> Chain,
    us: Option<Holder>,
    seconds: u64,
) -> (Arc<Store>, Manual) {
    let store = Arc::new(Store::in_memory(state, Vec::new()).unwrap());
    let change = ChainChange {
        job: &JobId::file("a"),
        secret: "rt",
        binds: true,
        seed: Some(b"seed"),
        next: &chain(first(&store)),
        expected: None,
    };
    store.swap_chain(change).await.unwrap();
    let clock = Standing(NOW.after(Duration::from_secs(seconds)));
    let manual = Manual {
        patience: Duration::ZERO,
        ..Manual::new(Arc::clone(&store), us, Arc::new(clock))
    };
    (store, manual)
}

fn code(failure: &Failure) -> &str {
    failure.code().unwrap_or_default()
}

#[tokio::test]
async fn what_is_open_decides_what_is_shown_and_whether_it_may_be_changed() {
    use StoredChainState::{AnswerWaiting, Dead, InDoubt, Ok as Fine, UnderWay};
    type Make = fn(Chain) -> Chain;
    type Case = (
        &'static str,
        Make,
        bool,
        Option<Holder>,
        u64,
        StoredChainState,
        bool,
    );
    let cases: [Case; 10] = [
        ("new", |c| c, true, Some(US), 0, Fine, true),
        (
            "ours",
            |c| c.intending(intent(US)),
            true,
            Some(US),
            29,
            UnderWay,
            false,
        ),
        (
            "ours, given up",
            |c| c.intending(intent(US)),
            true,
            Some(US),
            30,
            InDoubt,
            true,
        ),
        (
            "of a dead process",
            |c| c.intending(intent(OTHERS)),
            true,
            Some(US),
            0,
            InDoubt,
            true,
        ),
        (
            "seen by no process",
            |c| c.intending(intent(OTHERS)),
            true,
            None,
            0,
            InDoubt,
            true,
        ),
        (
            "of another process",
            |c| c.intending(intent(OTHERS)),
            false,
            Some(US),
            39,
            UnderWay,
            false,
        ),
        (
            "of another process, over",
            |c| c.intending(intent(OTHERS)),
            false,
            None,
            40,
            InDoubt,
            true,
        ),
        (
            "unanswered",
            |c| c.intending(intent(US)).in_doubt(answer()),
            true,
            Some(US),
            0,
            InDoubt,
            true,
        ),
        (
            "answered",
            |c| c.intending(intent(US)).answered(answer()),
            true,
            Some(US),
            0,
            AnswerWaiting,
            true,
        ),
        ("dead", |c| c.died(NOW, None), true, Some(US), 0, Dead, true),
    ];
    for (what, chain, exclusive, us, seconds, state, may_change) in cases {
        let memory = || {
            let memory = MemoryState::new([7; 32]);
            if exclusive {
                memory
            } else {
                memory.shared_by_processes()
            }
        };
        let (_, manual) = with(memory(), chain, us, seconds).await;
        let kept = manual.show(&["a".to_owned()]).await.unwrap();
        assert_eq!(kept[0].chains[0].state, state, "{what}");
        let generation = |set: Result<ReplacedChain, Failure>| {
            set.map(|set| set.generation)
                .map_err(|failure| code(&failure).to_owned())
        };
        let again = generation(manual.set("a", "rt", b"seed").await);
        let expected = if may_change {
            Ok(1)
        } else {
            Err("state.in-use".to_owned())
        };
        assert_eq!(again, expected, "{what}: the newest value again");
        let (store, manual) = with(memory(), chain, us, seconds).await;
        let new = generation(manual.set("a", "rt", b"next").await);
        assert_eq!(new, Ok(1), "{what}: a new value");
        let id = store.chain_id(&JobId::file("job"), b"seed");
        let kept = store.chain(id).await.unwrap().unwrap().chain;
        assert!(
            kept.has_newest(b"next") && kept.exchange.is_none() && kept.dead_since.is_none(),
            "{what}"
        );
        let (_, manual) = with(memory(), chain, us, seconds).await;
        let forgotten = manual.forget("a").await;
        assert_eq!(forgotten.is_ok(), may_change, "{what}: {forgotten:?}");
    }
}

#[tokio::test]
async fn a_value_set_by_hand_closes_what_is_open_and_is_the_next_generation() {
    let died = |chain: Chain| {
        chain
            .intending(intent(US))
            .in_doubt(answer())
            .died(NOW, None)
    };
    let (store, manual) = with(MemoryState::new([7; 32]), died, Some(US), 0).await;
    manual.set("a", "rt", b"next").await.unwrap();
    let found = store
        .find_chain(&JobId::file("a"), "rt", Some(b"seed"))
        .await
        .unwrap()
        .unwrap();
    let chain = found.stored.chain;
    assert_eq!(
        found.seed,
        Seed::Unchanged,
        "the configured value is where it was"
    );
    assert!(chain.has_newest(b"next"));
    assert_eq!(
        (chain.generation, chain.dead_since, chain.unanswered),
        (1, None, 0)
    );
    assert_ne!(chain.change, [0; 16]);
}

#[tokio::test]
async fn somebody_may_say_that_the_kept_value_is_good() {
    let died = |chain: Chain| chain.died(NOW, None);
    let (store, manual) = with(MemoryState::new([7; 32]), died, Some(US), 0).await;
    let set = manual.set_kept("a", "rt").await.unwrap();
    assert_eq!(set.generation, 1);
    let kept = store
        .chain(store.chain_id(&JobId::file("job"), b"seed"))
        .await
        .unwrap()
        .unwrap();
    assert!(kept.chain.has_newest(b"seed") && kept.chain.dead_since.is_none());
    // Not while it may be on its way.
    let open = |chain: Chain| chain.intending(intent(US));
    let (_, manual) = with(MemoryState::new([7; 32]), open, Some(US), 0).await;
    let failure = manual.set_kept("a", "rt").await.unwrap_err();
    assert_eq!(code(&failure), "state.in-use");
}

#[tokio::test]
async fn a_value_that_is_known_to_be_spent_is_not_taken() {
    let (store, manual) = with(MemoryState::new([7; 32]), |chain| chain, Some(US), 0).await;
    manual.set("a", "rt", b"next").await.unwrap();
    let other = Chain::new(
        store.chain_id(&JobId::file("job"), b"other"),
        b"other".to_vec().into(),
    );
    let change = ChainChange {
        job: &JobId::file("b"),
        secret: "rt",
        binds: true,
        seed: None,
        next: &other,
        expected: None,
    };
    store.swap_chain(change).await.unwrap();
    for (value, expected) in [
        (&b"seed"[..], Some("an earlier value")),
        (b"other", Some("another chain")),
        (b"next", None),
    ] {
        let set = manual.set("a", "rt", value).await;
        match expected {
            None => assert_eq!(set.unwrap().generation, 2, "it may be tried again"),
            Some(why) => {
                let failure = set.unwrap_err();
                assert_eq!(code(&failure), "state.spent");
                assert!(failure.message.contains(why), "{failure}");
            }
        }
    }
}

#[tokio::test]
async fn whoever_sets_or_forgets_waits_for_a_request_under_way() {
    let sent = |chain: Chain| chain.intending(intent(US));
    for forgets in [false, true] {
        let (store, manual) = with(MemoryState::new([7; 32]), sent, Some(US), 0).await;
        let manual = Manual {
            patience: Duration::from_secs(60),
            ..manual
        };
        let answers = async {
            sleep(Duration::from_millis(300)).await;
            let id = store.chain_id(&JobId::file("job"), b"seed");
            let stored = store.chain(id).await.unwrap().unwrap();
            let change = ChainChange {
                job: &JobId::file("a"),
                secret: "rt",
                binds: true,
                seed: None,
                next: &stored.chain.unspent(),
                expected: Some(&stored.revision),
            };
            store.swap_chain(change).await.unwrap().unwrap();
        };
        let changes = async {
            if forgets {
                manual.forget("a").await.map(|_| ())
            } else {
                manual.set("a", "rt", b"seed").await.map(|_| ())
            }
        };
        let (changed, ()) = tokio::join!(changes, answers);
        changed.unwrap();
        let kept = store
            .chain(store.chain_id(&JobId::file("job"), b"seed"))
            .await
            .unwrap();
        assert_eq!(kept.is_none(), forgets);
    }
}

#[tokio::test]
async fn what_does_not_exist_is_said_with_what_does() {
    let (_, manual) = with(MemoryState::new([7; 32]), |chain| chain, Some(US), 0).await;
    let names = ["a".to_owned(), "nobody".to_owned()];
    for failure in [
        manual.show(&names).await.unwrap_err(),
        manual.set("nobody", "rt", b"x").await.unwrap_err(),
        manual.forget("nobody").await.unwrap_err(),
    ] {
        assert_eq!(code(&failure), "state.no-such-job");
        assert!(failure.message.contains("`nobody`"), "{failure}");
    }
    let failure = manual.set("a", "other", b"x").await.unwrap_err();
    assert_eq!(code(&failure), "state.no-such-chain");
    assert!(
        failure.message.contains("chains are kept of `rt`"),
        "{failure}"
    );
}

#[tokio::test]
async fn nothing_that_is_shown_is_secret() {
    let answered = |chain: Chain| chain.intending(intent(US)).answered(answer());
    let (_, manual) = with(MemoryState::new([7; 32]), answered, Some(US), 0).await;
    let kept = manual.show(&[]).await.unwrap();
    let json = serde_json::to_string(&kept).unwrap();
    for secret in ["seed", "c2VlZA", "secret-answer"] {
        assert!(!json.contains(secret), "{json}");
    }
    let read: Vec<KeptJob> = serde_json::from_str(&json).unwrap();
    assert_eq!(read, kept);
    let open = read[0].chains[0]
        .chain
        .as_ref()
        .unwrap()
        .exchange
        .as_ref()
        .unwrap();
    assert_eq!(
        (open.method.as_str(), open.is_ours, open.is_answered),
        ("POST", true, true)
    );
}
