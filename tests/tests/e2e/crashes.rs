//! Crashes at a real issuer that takes each refresh token once: the process is killed at every moment, connections are cut, the disk
//! is full. No chain may end but those whose only answer was lost on its way to us, and these are counted.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use evertoken::capability::chain::Chain;
use evertoken::capability::keep::Keeper as _;
use evertoken::config::model::JobId;
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
const EXCHANGE: Duration = Duration::from_millis(40);

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

    /// Whether the issuer took this refresh token and gave another one for it.
    fn was_taken(&self, value: &str) -> bool {
        let carried_out = self.realm.proxy().carried_out();
        carried_out.iter().any(|done| {
            done.status == 200 && done.request.field("refresh_token").as_deref() == Some(value)
        })
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
    /// Chains that ended because their only answer was lost on its way to us.
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
    // Values that were sent and not answered when the process was killed.
    let mut unanswered = BTreeMap::<&str, String>::new();
    while tally.kills < kills() {
        if tally.kills % LOSES_REQUEST_EVERY == 1 {
            stage.realm.proxy().lose_requests(1);
        }
        if tally.kills % LOSES_ANSWER_EVERY == 2 {
            stage.realm.proxy().lose_answers(1);
        }
        kill_once(&stage, &mut random);
        tally.kills += 1;
        let chains = stage.chains();
        let open = || chains.values().filter_map(|chain| chain.exchange.as_ref());
        tally.inside += usize::from(open().next().is_some());
        tally.with_answer += usize::from(open().any(|exchange| exchange.answer.is_some()));
        for (job, chain) in &chains {
            let value = String::from_utf8(chain.value.expose_secret().to_vec()).unwrap();
            if chain.dead_since.is_some() {
                let was_unanswered = unanswered.get(job) == Some(&value) || chain.unanswered > 0;
                assert!(
                    was_unanswered && stage.was_taken(&value),
                    "{job}'s chain ended by our hand after {tally:?}: {chain:?}"
                );
                tally.lost_answers += 1;
                stage.log_in(job);
            }
            if chain.unanswered > 0 {
                unanswered.insert(job, value);
            }
        }
    }
    stage.realm.proxy().lose_requests(0);
    stage.realm.proxy().lose_answers(0);
    println!("{tally:?}, {} exchanges", stage.requests());
    assert!(
        tally.inside * INSIDE.1 >= tally.kills * INSIDE.0,
        "{tally:?}"
    );
    assert!(tally.with_answer > 0 || tally.kills < INSIDE.1, "{tally:?}");
    revive(&stage);
    stage.assert_all_live();
    stage.assert_none_was_spent_twice();
}

/// Runs the process until something happens, and kills it at a moment near that.
fn kill_once(stage: &Stage, random: &mut fastrand::Rng) {
    let before = stage.requests();
    let process = stage.run();
    if random.u8(..4) == 0 {
        std::thread::sleep(Duration::from_millis(random.u64(..1500)));
    } else {
        let began = Instant::now();
        while stage.requests() == before && began.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_micros(200));
        }
        std::thread::sleep(EXCHANGE.mul_f64(random.f64()));
    }
    process.kill();
}

/// The last kill may have lost an answer, which the next exchange finds out.
fn revive(stage: &Stage) {
    let process = stage.run();
    let ends = Instant::now() + Duration::from_secs(5);
    while Instant::now() < ends {
        std::thread::sleep(Duration::from_millis(100));
    }
    process.kill();
    for (job, chain) in stage.chains() {
        if chain.dead_since.is_some() {
            stage.log_in(job);
        }
    }
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
    process.kill();
    for (job, chain) in stage.chains() {
        assert_eq!(chain.dead_since, None, "{job}\n{chain:?}");
    }
    stage.assert_all_live();
    stage.assert_none_was_spent_twice();
    drop(disk);
}
