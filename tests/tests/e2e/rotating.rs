//! A refresh token that each use replaces, at a real issuer that refuses every reuse: the chain goes on, also through crashes.

use std::path::PathBuf;

use evertoken_tests::evertoken::Evertoken;
use evertoken_tests::keycloak::Keycloak;
use evertoken_tests::keycloak::realm::{ClientSpec, Realm, RealmSpec};
use evertoken_tests::wait_until;

use crate::scene::{PATIENCE, Scene};

const CLIENT: (&str, &str) = ("desktop", "desktop-secret-1");
const USER: (&str, &str) = ("alice", "alice-password-1");

/// Short enough for renewals within seconds.
const LIFESPAN_SECONDS: u32 = 6;

/// A user's login, whose refresh token is the seed of the chain.
struct Stage {
    scene: Scene,
    realm: Realm,
    config: PathBuf,
    seed: String,
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
        let spec = RealmSpec::new(name)
            .rotating(0)
            .client(client)
            .user(USER.0, USER.1);
        let realm = keycloak.realm(&spec).unwrap();
        let seed = realm
            .refresh_token(CLIENT, USER, "openid offline_access")
            .unwrap();
        let scene = Scene::new(name).unwrap();
        scene.write("client-secret", CLIENT.1).unwrap();
        scene.write("refresh-token", &seed).unwrap();
        let config = scene
            .config(&format!(
                r#"
state: {{dir: "{{here}}/state"}}
jobs:
- name: desktop
  source:
    plugin: oauth2
    config: {{grant: refresh_token, token_url: "{}", client_id: {}}}
    secrets:
      client_secret: {{file: "{{here}}/client-secret"}}
      refresh_token: {{file: "{{here}}/refresh-token", rotating: true}}
  outputs:
  - file: {{path: "{{out}}/token"}}
"#,
                realm.token_url(),
                CLIENT.0
            ))
            .unwrap();
        Some(Self {
            scene,
            realm,
            config,
            seed,
        })
    }

    fn token(&self) -> Option<Vec<u8>> {
        std::fs::read(self.scene.out("token")).ok()
    }

    /// Waits until the file holds another token than `last`, and returns it.
    fn next_token(&self, process: &Evertoken, last: Option<&Vec<u8>>) -> Vec<u8> {
        wait_until("another token", PATIENCE, || {
            self.token().filter(|token| Some(token) != last)
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()))
    }

    /// The refresh tokens that Keycloak was sent, in their order.
    fn sent(&self) -> Vec<String> {
        let requests = self.realm.token_requests(CLIENT.0);
        requests
            .iter()
            .map(|request| request.field("refresh_token").unwrap())
            .collect()
    }

    /// Each refresh token was sent once, the seed first: no reuse, no login.
    fn assert_chain(&self, uses: usize) {
        let sent = self.sent();
        assert!(sent.len() >= uses, "{} uses", sent.len());
        assert_eq!(sent[0], self.seed);
        let mut distinct = sent.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!(
            distinct.len(),
            sent.len(),
            "a spent refresh token was sent again"
        );
    }
}

#[test]
fn a_rotating_refresh_token_is_renewed_again_and_again_and_each_is_used_once() {
    let Some(stage) = Stage::new("chain") else {
        return;
    };
    let process = stage.scene.run(&stage.config).unwrap();
    let first = stage.next_token(&process, None);
    let second = stage.next_token(&process, Some(&first));
    stage.next_token(&process, Some(&second));
    stage.assert_chain(3);
}

#[test]
fn a_process_killed_at_the_moment_of_publication_has_stored_the_successor() {
    let Some(stage) = Stage::new("crash") else {
        return;
    };
    let mut last = None;
    for _ in 0..3 {
        let process = stage.scene.run(&stage.config).unwrap();
        last = Some(stage.next_token(&process, last.as_ref()));
        process.kill();
    }
    let process = stage.scene.run(&stage.config).unwrap();
    stage.next_token(&process, last.as_ref());
    stage.assert_chain(4);
    let row = stage.scene.row(&stage.config, "desktop").unwrap();
    assert_eq!(row["state"], "ready", "{row}\n{}", process.stderr());
}
