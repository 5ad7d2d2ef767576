//! Crashes at a real issuer that takes each refresh token once: the process is killed at every moment, connections are cut, the disk
//! is full. No chain may end but those whose only answer was lost on its way to us, and these are counted.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use evertoken::capability::chain::Chain;
use evertoken::capability::keep::Keeper as _;
use evertoken::model::JobId;
use evertoken::state::Store;
use evertoken_tests::disk::SmallDisk;
use evertoken_tests::evertoken::Evertoken;
use evertoken_tests::keycloak::Keycloak;
use evertoken_tests::keycloak::realm::{ClientSpec, Realm, RealmSpec};
use evertoken_tests::wait_until;
use secrecy::ExposeSecret as _;

use crate::scene::{PATIENCE, Scene};

const CLIENT: (&str, &str) = ("desktop", "desktop-secret-1");
const PASSWORD: &str = "password-1";
const JOBS: [&str; 4] = ["anna", "bert", "cleo", "dora"];

/// An exchange of each job every second.
const LIFESPAN_SECONDS: u32 = 1;

/// Names another number of kills.
const KILLS: (&str, usize) = ("EVERTOKEN_KILLS", 200);

/// Kills that must fall into an exchange for the test to mean something, of 200.
const INSIDE: (usize, usize) = (50, 200);

/// Every so many kills a request, and an answer, is lost on a connection that is cut.
const LOSES_REQUEST_EVERY: usize = 9;
const LOSES_ANSWER_EVERY: usize = 40;

/// After a request came in, the process is killed within this time: the issuer needs about 10 ms for an answer.
const BEFORE_THE_ANSWER: Duration = Duration::from_millis(20);

/// After the issuer answered, the process is killed within this time: it writes the answer, then the successor, then the token.
const AFTER_THE_ANSWER: Duration = Duration::from_millis(30);

struct Stage {
    scene: Scene,
    realm: Realm,
    config: PathBuf,
    state: PathBuf,
    runtime: tokio::runtime::Runtime,
}

impl Stage {
    fn new(name: &str) -> Option<Self> {
        let Some(keycloak) = Keycloak::shared().unwrap() else {
            println!("skipped: needs Keycloak");
            return None;
        };
        let client = ClientSpec::new(CLIENT.0, CLIENT.1)
            .lifespan(LIFESPAN_SECONDS)
            .direct_grants();
        let spec = RealmSpec::new(name).rotating(0).client(client);
        let spec = JOBS.iter().fold(spec, |spec, job| spec.user(job, PASSWORD));
        let realm = keycloak.realm(&spec).unwrap();
        let scene = Scene::new(name).unwrap();
        scene.write("client-secret", CLIENT.1).unwrap();
        let state = scene.path("disk");
        std::fs::create_dir(&state).unwrap();
        let mut yaml = "state: {dir: \"{here}/disk/state\"}\njobs:\n".to_owned();
        for job in JOBS {
            yaml.push_str(&format!(
                r#"
- name: {job}
  source:
    plugin: oauth2
    config: {{grant: refresh_token, token_url: "{}", client_id: {}}}
    secrets:
      client_secret: {{file: "{{here}}/client-secret"}}
      refresh_token: {{file: "{{here}}/{job}", rotating: true}}
  outputs:
  - file: {{path: "{{out}}/{job}"}}
"#,
                realm.token_url(),
                CLIENT.0
            ));
        }
        let config = scene.config(&yaml).unwrap();
        let stage = Self {
            scene,
            realm,
            config,
            state,
            runtime: tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap(),
        };
        JOBS.iter().for_each(|job| stage.log_in(job));
        Some(stage)
    }

    fn log_in(&self, job: &str) {
        let login = self
            .realm
            .refresh_token(CLIENT, (job, PASSWORD), "openid offline_access")
            .unwrap();
        self.scene.write(job, &login).unwrap();
    }

    fn run(&self) -> Evertoken {
        self.scene.run(&self.config).unwrap()
    }

    /// The chains as the state store has them; no process may hold it.
    fn chains(&self) -> BTreeMap<&'static str, Chain> {
        let store = Store::open(&self.state.join("state"), Vec::new()).unwrap();
        let chain = |job: &&'static str| {
            let id = JobId::file(*job);
            let found = store.find_chain(&id, "refresh_token", None);
            let found = self.runtime.block_on(found).unwrap()?;
            Some((*job, found.stored.chain))
        };
        JOBS.iter().filter_map(chain).collect()
    }

    /// The refresh tokens that the issuer took, and whether its answer was lost on a connection that was cut.
    fn taken(&self) -> BTreeMap<String, bool> {
        let carried_out = self.realm.proxy().carried_out().into_iter();
        carried_out
            .filter(|done| done.status == 200)
            .filter_map(|done| Some((done.request.field("refresh_token")?, done.was_lost)))
            .collect()
    }

    fn answers(&self) -> usize {
        self.realm.proxy().carried_out().len()
    }

    fn requests(&self) -> usize {
        self.realm.token_requests(CLIENT.0).len()
    }

    fn token(&self, job: &str) -> Option<Vec<u8>> {
        std::fs::read(self.scene.out(job)).ok()
    }

    /// All jobs get another token than they have.
    fn assert_all_live(&self) {
        let before: Vec<_> = JOBS.iter().map(|job| self.token(job)).collect();
        let process = self.run();
        for (job, before) in JOBS.iter().zip(before) {
            wait_until(&format!("a new token of {job}"), PATIENCE, || {
                self.token(job)
                    .filter(|token| Some(token) != before.as_ref())
            })
            .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
        }
    }

    /// No refresh token was sent a third time, nor a second time after its answer had reached us.
    fn assert_none_was_spent_twice(&self) {
        let mut taken = BTreeMap::<String, usize>::new();
        for done in self.realm.proxy().carried_out() {
            if let (200, Some(value)) = (done.status, done.request.field("refresh_token")) {
                *taken.entry(value).or_default() += 1;
            }
        }
        assert!(taken.values().all(|times| *times == 1));
    }
}

/// What was seen at the kills.
#[derive(Debug, Default)]
struct Tally {
    kills: usize,
    /// Kills with a request written down that was not closed, of any job.
    inside: usize,
    /// Of these, kills with an answer kept that was not closed.
    with_answer: usize,
    /// Chains that ended because their only answer was lost on its way to us: it is in no store.
    lost_answers: usize,
}

fn kills() -> usize {
    let named = std::env::var(KILLS.0).ok();
    named.map_or(KILLS.1, |number| number.parse().unwrap())
}

#[test]
fn killed_at_every_moment_a_process_loses_no_chain_whose_answer_had_reached_it() {
    let Some(stage) = Stage::new("kills") else {
        return;
    };
    let mut random = fastrand::Rng::new();
    println!("seed of the moments: {}", random.get_seed());
    let mut tally = Tally::default();
    // Values whose answer was in no store when the process was killed.
    let mut unanswered = BTreeSet::new();
    while tally.kills < kills() {
        if tally.kills % LOSES_REQUEST_EVERY == 1 {
            stage.realm.proxy().lose_requests(1);
        }
        if tally.kills % LOSES_ANSWER_EVERY == 2 {
            stage.realm.proxy().lose_answers(1);
        }
        kill_once(&stage, &mut random);
        tally.kills += 1;
        look(&stage, &mut tally, &mut unanswered);
    }
    stage.realm.proxy().lose_requests(0);
    stage.realm.proxy().lose_answers(0);
    println!("{tally:?}, {} exchanges", stage.requests());
    assert!(
        tally.inside * INSIDE.1 >= tally.kills * INSIDE.0,
        "{tally:?}"
    );
    assert!(tally.with_answer > 0 || tally.kills < INSIDE.1, "{tally:?}");
    leave_doubts(&stage, &mut tally, &mut unanswered);
    stage.assert_all_live();
    stage.assert_none_was_spent_twice();
}

/// Logs in for the chains of which nobody knows at the end whether they live: the issuer may have been at their last request.
fn leave_doubts(stage: &Stage, tally: &mut Tally, unanswered: &mut BTreeSet<String>) {
    std::thread::sleep(Duration::from_secs(2));
    look(stage, tally, unanswered);
    for (job, chain) in stage.chains() {
        if chain.unanswered > 0 && chain.answer().is_none() {
            stage.log_in(job);
        }
    }
}

/// Tells the chains whose only answer is lost from those that must go on, and logs in for the former.
fn look(stage: &Stage, tally: &mut Tally, unanswered: &mut BTreeSet<String>) {
    let (chains, taken) = (stage.chains(), stage.taken());
    let open = || chains.values().filter_map(|chain| chain.exchange.as_ref());
    tally.inside += usize::from(open().next().is_some());
    tally.with_answer += usize::from(open().any(|exchange| exchange.answer.is_some()));
    for (job, chain) in &chains {
        let value = String::from_utf8(chain.value.expose_secret().to_vec()).unwrap();
        let was_cut = taken.get(&value).copied();
        let is_dead = chain.dead_since.is_some();
        if is_dead {
            assert!(
                was_cut == Some(true) || (was_cut == Some(false) && unanswered.contains(&value)),
                "{job}'s chain ended by our hand after {tally:?}: {chain:?}"
            );
        }
        // The issuer may be at it still; then a later kill tells.
        let is_unanswered = chain.unanswered > 0 && chain.answer().is_none();
        if is_dead || (is_unanswered && was_cut == Some(false)) {
            tally.lost_answers += 1;
            stage.log_in(job);
        }
        if is_unanswered {
            unanswered.insert(value);
        }
    }
}

/// Runs the process and kills it: at any time, after a request came in, or after the issuer answered one.
fn kill_once(stage: &Stage, random: &mut fastrand::Rng) {
    let (requests, answers) = (stage.requests(), stage.answers());
    let process = stage.run();
    let (happened, within): (&dyn Fn() -> bool, Duration) = match random.u8(..8) {
        0 => (&|| true, Duration::from_millis(1500)),
        1..3 => (&|| stage.requests() > requests, BEFORE_THE_ANSWER),
        _ => (&|| stage.answers() > answers, AFTER_THE_ANSWER),
    };
    let began = Instant::now();
    while !happened() && began.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_micros(200));
    }
    std::thread::sleep(within.mul_f64(random.f64()));
    process.kill();
}

#[test]
fn a_full_disk_loses_no_chain() {
    let Some(stage) = Stage::new("full") else {
        return;
    };
    let Some(disk) = SmallDisk::mount(&stage.state, "4m") else {
        return;
    };
    let process = stage.run();
    for _ in 0..10 {
        let before = stage.requests();
        wait_until("exchanges", PATIENCE, || {
            (stage.requests() > before + 4).then_some(())
        })
        .unwrap();
        let filler = disk.fill().unwrap();
        std::thread::sleep(Duration::from_millis(1200));
        std::fs::remove_file(filler).unwrap();
    }
    process.terminate(PATIENCE).unwrap();
    for (job, chain) in stage.chains() {
        assert_eq!(chain.dead_since, None, "{job}\n{chain:?}");
    }
    stage.assert_all_live();
    stage.assert_none_was_spent_twice();
    drop(disk);
}
