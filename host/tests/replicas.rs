//! Replicas that share shards by Leases of a real API server: that they settle, how soon a shard moves when one ends in order or dies,
//! and what hands, RBAC and an outage do to them. At every moment no two of them may run one shard.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    reason = "helpers of tests fail in the plain way too"
)]

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use evertoken::kubernetes::Kubernetes;
use evertoken::model::time::{Clock, Reading, SystemClock};
use evertoken::replicas::shards::replica_of;
use evertoken::replicas::{Fence, Handle, Identity, Order, Replicas, Settings};
use evertoken_tests::kubernetes::{ApiServer, ServiceAccount};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

const PREFIX: &str = "ever";
const SHARDS: u32 = 8;

const GROUP: &str = "coordination.k8s.io";
const ALL: [&str; 5] = ["get", "list", "create", "update", "delete"];

/// What is taken when it is given up.
const ORDERLY: Duration = Duration::from_secs(2);
/// What is taken from the dead.
const DEATH: Duration = Duration::from_secs(20);

fn rules(verbs: &[&str]) -> Value {
    json!([{"apiGroups": [GROUP], "resources": ["leases"], "verbs": verbs}])
}

/// The machine's clock, which may leap: so a machine finds its own that slept.
#[derive(Default)]
struct Leaping(AtomicU64);

impl Clock for Leaping {
    fn now(&self) -> Reading {
        let now = SystemClock.now();
        let leap = Duration::from_millis(self.0.load(Ordering::SeqCst));
        Reading {
            boot: now.boot + leap,
            ..now
        }
    }
}

struct Replica {
    name: String,
    handle: Handle,
    clock: Arc<Leaping>,
    task: JoinHandle<()>,
    owner: JoinHandle<()>,
}

impl Replica {
    fn holds(&self, shard: u32) -> bool {
        self.handle.fence().holds(shard, self.clock.now().boot)
    }

    /// Without a word to anybody.
    async fn die(self) {
        self.owner.abort();
        self.task.abort();
        let _ = self.task.await;
    }
}

/// Owns jobs that stop at once.
async fn own_jobs(handle: Handle) {
    let mut orders = handle.orders();
    loop {
        for (shard, order) in orders.borrow_and_update().clone() {
            if order != Order::Run {
                handle.stopped(shard);
            }
        }
        if orders.changed().await.is_err() {
            return;
        }
    }
}

type Fences = Arc<Mutex<Vec<(String, Fence, Arc<Leaping>)>>>;

struct Scene {
    server: &'static ApiServer,
    namespace: String,
    account: ServiceAccount,
    fences: Fences,
    is_over: Arc<AtomicBool>,
    guard: Option<std::thread::JoinHandle<()>>,
}

impl Scene {
    /// None where Kubernetes is switched off by name.
    fn new(name: &str) -> Option<Self> {
        let server = ApiServer::shared().unwrap()?;
        Some(Self::over(server, name))
    }

    /// With a server that may be stopped.
    fn alone(name: &str) -> Option<Self> {
        ApiServer::shared().unwrap()?;
        // It ends with this process.
        let server = Box::leak(Box::new(ApiServer::start().unwrap()));
        Some(Self::over(server, name))
    }

    fn over(server: &'static ApiServer, name: &str) -> Self {
        let namespace = server.namespace(name).unwrap();
        let account = server
            .service_account(&namespace, "evertoken", &rules(&ALL))
            .unwrap();
        let (fences, is_over) = (Fences::default(), Arc::new(AtomicBool::new(false)));
        let guard = std::thread::spawn({
            let (fences, is_over) = (Arc::clone(&fences), Arc::clone(&is_over));
            move || watch(&fences, &is_over)
        });
        Self {
            server,
            namespace,
            account,
            fences,
            is_over,
            guard: Some(guard),
        }
    }

    async fn start(&self, host: &str) -> Replica {
        let kubeconfig = Kubeconfig::read_from(&self.account.kubeconfig).unwrap();
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await;
        let identity = Identity::new(host).unwrap();
        let name = identity.to_string();
        let settings = Settings {
            namespace: self.namespace.clone(),
            prefix: PREFIX.to_owned(),
            identity,
            shards: NonZeroU32::new(SHARDS).unwrap(),
        };
        let clock = Arc::new(Leaping::default());
        let kubernetes = Arc::new(Kubernetes::with_config(config.unwrap()));
        let shown: Arc<dyn Clock> = Arc::clone(&clock) as _;
        let (replicas, handle) = Replicas::new(kubernetes, settings, shown);
        let mut fences = self.fences.lock().unwrap();
        fences.push((name.clone(), handle.fence(), Arc::clone(&clock)));
        Replica {
            name,
            clock,
            task: tokio::spawn(replicas.run()),
            owner: tokio::spawn(own_jobs(handle.clone())),
            handle,
        }
    }

    fn collection(&self) -> String {
        format!("/apis/{GROUP}/v1/namespaces/{}/leases", self.namespace)
    }

    fn lease(&self, name: &str) -> Option<Value> {
        let path = format!("{}/{PREFIX}-{name}", self.collection());
        self.server.admin().get(&path).unwrap()
    }

    /// With the administrator's hand.
    fn by_hand(&self, method: &str, name: &str, body: Option<&Value>) {
        let path = format!("{}/{PREFIX}-{name}", self.collection());
        let kind = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        let admin = self.server.admin();
        let answer = admin.request(method, &path, kind, body).unwrap();
        answer.success().unwrap();
    }

    fn allow(&self, verbs: &[&str]) {
        let version = "rbac.authorization.k8s.io/v1";
        let path = format!(
            "/apis/{version}/namespaces/{}/roles/evertoken",
            self.namespace
        );
        let role = json!({"apiVersion": version, "kind": "Role", "metadata": {"name": "evertoken"}, "rules": rules(verbs)});
        let admin = self.server.admin();
        let answer = admin.request("PUT", &path, "application/json", Some(&role));
        answer.unwrap().success().unwrap();
    }

    /// Ends the watch over the fences.
    fn end(mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        self.guard.take().unwrap().join().unwrap();
    }
}

/// Looks at all fences all the time.
fn watch(fences: &Fences, is_over: &AtomicBool) {
    while !is_over.load(Ordering::SeqCst) {
        for shard in 0..SHARDS {
            let fences = fences.lock().unwrap();
            let open = fences
                .iter()
                .filter(|(_, fence, clock)| fence.holds(shard, clock.now().boot));
            let open: Vec<&str> = open.map(|(name, ..)| name.as_str()).collect();
            assert!(open.len() < 2, "shard {shard} may run at {open:?}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Where each shard may run.
fn placement(replicas: &[&Replica]) -> BTreeMap<u32, Vec<String>> {
    let at = |shard| {
        let open = replicas.iter().filter(move |replica| replica.holds(shard));
        open.map(|replica| replica.name.clone()).collect()
    };
    (0..SHARDS).map(|shard| (shard, at(shard))).collect()
}

fn right(replicas: &[&Replica]) -> BTreeMap<u32, Vec<String>> {
    let names = || replicas.iter().map(|replica| replica.name.as_str());
    let at = |shard| replica_of(shard, names()).map(str::to_owned);
    let all = (0..SHARDS).map(|shard| (shard, at(shard).into_iter().collect()));
    all.collect()
}

/// Waits until every shard is its right replica's, and says how long that took.
async fn settle(replicas: &[&Replica], within: Duration, what: &str) -> Duration {
    until(within, what, || placement(replicas) == right(replicas)).await
}

async fn until(within: Duration, what: &str, holds: impl Fn() -> bool) -> Duration {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < within, "not within {within:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    eprintln!("{what}: {:?}", began.elapsed());
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_settle_and_a_third_takes_its_share_with_the_requests_that_are_said() {
    let Some(scene) = Scene::new("replicas-settle") else {
        return;
    };
    let (a, b) = (scene.start("pod-a").await, scene.start("pod-b").await);
    settle(&[&a, &b], DEATH, "two settle on new Leases").await;
    let c = scene.start("pod-c").await;
    settle(&[&a, &b, &c], DEATH, "a third joins").await;
    let count = || {
        let mut counts = BTreeMap::new();
        for event in scene
            .server
            .audit_events_of_user(&scene.account.username)
            .unwrap()
        {
            *counts.entry(event.verb).or_insert(0_i32) += 1;
        }
        counts
    };
    let before = count();
    tokio::time::sleep(Duration::from_secs(15)).await;
    let after = count();
    // 3 replicas each 1.5 s; 3 + 8 Leases each 5 s.
    for (verb, expected) in [("list", 30), ("update", 33), ("create", 0), ("get", 0)] {
        let number = |counts: &BTreeMap<String, i32>| counts.get(verb).copied().unwrap_or(0);
        let found = number(&after) - number(&before);
        eprintln!("{verb} in 15 s: {found}");
        assert!((found - expected).abs() <= expected / 3, "{verb}: {found}");
    }
    assert_eq!(placement(&[&a, &b, &c]), right(&[&a, &b, &c]));
    scene.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_replica_gives_up_at_its_end_is_taken_within_2_s() {
    let Some(scene) = Scene::new("replicas-orderly") else {
        return;
    };
    let (a, b) = (scene.start("pod-a").await, scene.start("pod-b").await);
    settle(&[&a, &b], DEATH, "two settle").await;
    let fence = a.handle.fence();
    a.handle.begin_release();
    // Its jobs are told to stop, and may finish: others wait for them.
    let lives = format!("replica-{}", a.name);
    let gone = || scene.lease(&lives).is_none();
    until(ORDERLY, "its own Lease is gone", gone).await;
    let began = Instant::now();
    a.handle.released().await;
    eprintln!("releasing took {:?}", began.elapsed());
    assert!((0..SHARDS).all(|shard| !fence.holds(shard, Duration::ZERO)));
    let left = ORDERLY.saturating_sub(began.elapsed());
    settle(&[&b], left, "what was given up is taken").await;
    // And without any time to prepare.
    let c = scene.start("pod-c").await;
    settle(&[&b, &c], DEATH, "another joins").await;
    let began = Instant::now();
    b.handle.released().await;
    let left = ORDERLY.saturating_sub(began.elapsed());
    settle(&[&c], left, "what was given up at once is taken").await;
    scene.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_replica_held_moves_within_20_s_also_to_its_successor_of_the_same_name() {
    let Some(scene) = Scene::new("replicas-death") else {
        return;
    };
    let (a, b) = (scene.start("pod-a").await, scene.start("pod-b").await);
    settle(&[&a, &b], DEATH, "two settle").await;
    let began = Instant::now();
    a.die().await;
    let a = scene.start("pod-a").await;
    settle(&[&a, &b], DEATH, "the dead one's shards moved").await;
    assert!(began.elapsed() > Duration::from_secs(10));
    a.die().await;
    settle(&[&b], DEATH, "and to the one that was there").await;
    scene.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_is_deleted_or_cleared_by_hand_is_back_at_once_and_nobody_stops() {
    let Some(scene) = Scene::new("replicas-deleted") else {
        return;
    };
    let (a, b) = (scene.start("pod-a").await, scene.start("pod-b").await);
    settle(&[&a, &b], DEATH, "two settle").await;
    let shards = (0..SHARDS).map(|shard| format!("shard-{shard}"));
    let living = [&a, &b].map(|replica| format!("replica-{}", replica.name));
    let all: Vec<String> = shards.chain(living).collect();
    let clear = json!({"spec": {"holderIdentity": null}});
    for (method, body) in [("DELETE", None), ("DELETE", None), ("PATCH", Some(&clear))] {
        for name in &all {
            scene.by_hand(method, name, body);
        }
        let began = Instant::now();
        while began.elapsed() < DEATH {
            assert_eq!(placement(&[&a, &b]), right(&[&a, &b]), "{method}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for name in &all {
            let lease = scene.lease(name).unwrap();
            assert!(lease["spec"]["holderIdentity"].is_string(), "{name}");
        }
    }
    scene.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_is_overwritten_by_hand_is_that_holders_until_it_is_over() {
    let Some(scene) = Scene::new("replicas-overwritten") else {
        return;
    };
    let (a, b) = (scene.start("pod-a").await, scene.start("pod-b").await);
    settle(&[&a, &b], DEATH, "two settle").await;
    for (shard, change) in [
        (0, json!({"spec": {"holderIdentity": "nobody"}})),
        // The other one's name does not make it the other one's.
        (2, json!({"spec": {"holderIdentity": a.name}})),
        (3, json!({"spec": {"holderIdentity": b.name}})),
    ] {
        scene.by_hand("PATCH", &format!("shard-{shard}"), Some(&change));
    }
    // Labels and annotations are of no importance, but for being found.
    let unlabelled = json!({"metadata": {"labels": null, "annotations": null}});
    scene.by_hand("PATCH", "shard-4", Some(&unlabelled));
    let is_lost = || placement(&[&a, &b])[&0].is_empty();
    until(ORDERLY, "the holder knows", is_lost).await;
    settle(&[&a, &b], DEATH, "all is right again").await;
    assert!(scene.lease("shard-4").unwrap()["metadata"]["labels"].is_object());
    scene.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_verb_update_all_stop_in_time_and_with_it_they_go_on() {
    let Some(scene) = Scene::new("replicas-forbidden") else {
        return;
    };
    let (a, b) = (scene.start("pod-a").await, scene.start("pod-b").await);
    settle(&[&a, &b], DEATH, "two settle").await;
    scene.allow(&["get", "list", "create", "delete"]);
    let none = || placement(&[&a, &b]).values().all(Vec::is_empty);
    // RBAC's caches may lag.
    until(DEATH, "all have stopped", none).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(none());
    scene.allow(&ALL);
    settle(&[&a, &b], Duration::from_secs(10), "all go on").await;
    scene.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_30_s_without_an_api_server_every_shard_goes_on_where_it_was() {
    let Some(scene) = Scene::alone("replicas-outage") else {
        return;
    };
    let (a, b) = (scene.start("pod-a").await, scene.start("pod-b").await);
    settle(&[&a, &b], DEATH, "two settle").await;
    let server = scene.server;
    let down = tokio::task::spawn_blocking(|| server.down());
    down.await.unwrap();
    let none = || placement(&[&a, &b]).values().all(Vec::is_empty);
    let stopped = until(Duration::from_secs(11), "all have stopped", none).await;
    assert!(stopped > Duration::from_secs(4));
    tokio::time::sleep(Duration::from_secs(30).saturating_sub(stopped)).await;
    assert!(none());
    let up = tokio::task::spawn_blocking(|| server.up());
    up.await.unwrap().unwrap();
    let (expected, replicas) = (right(&[&a, &b]), [&a, &b]);
    let began = Instant::now();
    while placement(&replicas) != expected {
        assert!(began.elapsed() < Duration::from_secs(10));
        for (shard, at) in placement(&replicas) {
            assert!(at.is_empty() || expected[&shard] == at, "{shard}: {at:?}");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    eprintln!(
        "all go on: {:?} after the server was ready",
        began.elapsed()
    );
    scene.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_slept_finds_every_fence_closed_at_once_and_gets_its_shards_again() {
    let Some(scene) = Scene::new("replicas-asleep") else {
        return;
    };
    let (a, b) = (scene.start("pod-a").await, scene.start("pod-b").await);
    settle(&[&a, &b], DEATH, "two settle").await;
    a.clock.0.store(40_000, Ordering::SeqCst);
    assert!((0..SHARDS).all(|shard| !a.holds(shard)));
    settle(&[&a, &b], DEATH, "all is right again").await;
    scene.end();
}
