//! What stands in the way of a Secret and what is mended there: said in a line per reason, noticed within half a minute, and one line when
//! it works again. Rights, quotas and admission rules are the real API server's.

use std::time::{Duration, Instant};

use evertoken_tests::evertoken::Evertoken;
use evertoken_tests::kubernetes::{ApiServer, ServiceAccount};
use evertoken_tests::wait_until;
use serde_json::{Value, json};

use crate::scene::{PATIENCE, Scene};

/// Half a minute, and what a busy machine takes.
const NOTICED: Duration = Duration::from_secs(40);
/// How long admission rules may take to come into force.
const IN_FORCE: Duration = Duration::from_secs(60);

struct Stage {
    scene: Scene,
    cluster: &'static ApiServer,
    namespace: String,
    account: ServiceAccount,
    config: std::path::PathBuf,
}

/// Something that stands in the way of the output of the same name, and how it goes away.
struct Trouble {
    name: &'static str,
    code: &'static str,
    words: &'static [&'static str],
    mend: fn(&Stage),
}

const TROUBLES: [Trouble; 7] = [
    Trouble {
        name: "forbidden",
        code: "kubernetes.forbidden",
        words: &["grant verb `patch`", "resourceNames: [forbidden]"],
        mend: |stage| {
            let rules = rules(&["forbidden"], &["patch"]);
            let user = &stage.account.username;
            stage
                .cluster
                .grant(&stage.namespace, "late", user, &rules)
                .unwrap();
        },
    },
    Trouble {
        name: "immutable",
        code: "kubernetes.immutable",
        words: &["it is immutable", "delete it and create it without"],
        mend: |stage| stage.create_anew("immutable", json!({})),
    },
    Trouble {
        name: "typed",
        code: "kubernetes.type",
        words: &[
            "type cannot be changed",
            "drop `type` from the output or delete the Secret",
        ],
        mend: |stage| {
            stage
                .cluster
                .admin()
                .delete_secret(&stage.namespace, "typed")
                .unwrap()
        },
    },
    Trouble {
        name: "elsewhere",
        code: "kubernetes.namespace-not-found",
        words: &["does not exist; create it"],
        mend: |stage| {
            let name = stage.elsewhere("missing");
            let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            stage
                .cluster
                .admin()
                .create("/api/v1/namespaces", &body)
                .unwrap();
        },
    },
    Trouble {
        name: "refused",
        code: "kubernetes.refused",
        words: &["an admission rule refuses it", "tokens do not belong here"],
        mend: |stage| stage.delete_policy(),
    },
    Trouble {
        name: "beyond-quota",
        code: "kubernetes.quota",
        words: &["ResourceQuota", "exceeded quota"],
        mend: |stage| stage.allow_secrets(9),
    },
    Trouble {
        name: "terminating",
        code: "kubernetes.terminating",
        words: &["is being deleted"],
        mend: |stage| stage.bring_back("ending"),
    },
];

fn rules(names: &[&str], verbs: &[&str]) -> Value {
    json!([{"apiGroups": [""], "resources": ["secrets"], "resourceNames": names, "verbs": verbs}])
}

const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
const BINDINGS: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings";

impl Stage {
    fn new() -> Option<Self> {
        let Some(cluster) = ApiServer::shared().unwrap() else {
            println!("skipped: needs Kubernetes");
            return None;
        };
        let namespace = cluster.namespace("mended").unwrap();
        let names = ["immutable", "typed", "refused"];
        let account = cluster
            .service_account(&namespace, "evertoken", &rules(&names, &["patch"]))
            .unwrap();
        let scene = Scene::new("mended").unwrap();
        let config = scene.path("evertoken.yaml");
        let stage = Self {
            scene,
            cluster,
            namespace,
            account,
            config,
        };
        stage.allow_everywhere();
        Some(stage)
    }

    /// A namespace of a trouble that has one of its own.
    fn elsewhere(&self, name: &str) -> String {
        format!("{}-{name}", self.namespace)
    }

    fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let answer = self
            .cluster
            .admin()
            .request(method, path, "application/json", body);
        answer.unwrap().success().unwrap()
    }

    /// Rights in namespaces that are not there yet must be a ClusterRole's.
    fn allow_everywhere(&self) {
        const GROUP: &str = "rbac.authorization.k8s.io";
        let version = format!("{GROUP}/v1");
        let metadata = json!({"name": self.namespace});
        let names = ["elsewhere", "beyond-quota", "terminating"];
        let mut rules = rules(&names, &["patch"]);
        let create = json!({"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]});
        rules.as_array_mut().unwrap().push(create);
        let role = json!({"apiVersion": version, "kind": "ClusterRole", "metadata": metadata, "rules": rules});
        self.request(
            "POST",
            &format!("/apis/{version}/clusterroles"),
            Some(&role),
        );
        let binding = json!({
            "apiVersion": version, "kind": "ClusterRoleBinding", "metadata": metadata,
            "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": self.namespace},
            "subjects": [{"apiGroup": GROUP, "kind": "User", "name": self.account.username}],
        });
        self.request(
            "POST",
            &format!("/apis/{version}/clusterrolebindings"),
            Some(&binding),
        );
    }

    fn create_anew(&self, name: &str, members: Value) {
        let admin = self.cluster.admin();
        admin.delete_secret(&self.namespace, name).unwrap();
        admin.create_secret(&self.namespace, name, members).unwrap();
    }

    fn create_namespace(&self, name: &str) {
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.elsewhere(name)}});
        self.request("POST", "/api/v1/namespaces", Some(&body));
    }

    fn make_trouble(&self) {
        let admin = self.cluster.admin();
        let immutable = json!({"immutable": true, "stringData": {"token": "old"}});
        for (name, members) in [
            ("immutable", immutable),
            ("typed", json!({"type": "example.org/other"})),
            ("forbidden", json!({})),
            ("refused", json!({})),
        ] {
            admin.create_secret(&self.namespace, name, members).unwrap();
        }
        self.create_policy();
        self.create_namespace("full");
        self.allow_secrets(0);
        self.create_namespace("ending");
        admin.delete_namespace(&self.elsewhere("ending")).unwrap();
    }

    fn create_policy(&self) {
        let kind = |kind: &str, spec: Value| {
            json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
                "metadata": {"name": self.namespace}, "spec": spec})
        };
        let rule = json!({"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"],
            "resources": ["secrets"], "resourceNames": ["refused"]});
        let policy = json!({
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [rule]},
            "validations": [{"expression": "!('token' in object.data)", "message": "tokens do not belong here"}],
        });
        let policy = kind("ValidatingAdmissionPolicy", policy);
        self.request("POST", POLICIES, Some(&policy));
        let name = json!({"matchLabels": {"kubernetes.io/metadata.name": self.namespace}});
        let binding = json!({"policyName": self.namespace, "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": name}});
        let binding = kind("ValidatingAdmissionPolicyBinding", binding);
        self.request("POST", BINDINGS, Some(&binding));
        let trial = json!({"stringData": {"token": "trial"}});
        wait_until("the admission rule", IN_FORCE, || {
            let patched = self
                .cluster
                .admin()
                .patch_secret(&self.namespace, "refused", &trial);
            patched.is_err().then_some(())
        })
        .unwrap();
    }

    fn delete_policy(&self) {
        for collection in [BINDINGS, POLICIES] {
            let path = format!("{collection}/{}", self.namespace);
            self.request("DELETE", &path, None);
        }
    }

    /// The quota's status is a controller's work, which there is none here for.
    fn allow_secrets(&self, count: u32) {
        let quotas = format!(
            "/api/v1/namespaces/{}/resourcequotas",
            self.elsewhere("full")
        );
        let hard = json!({"secrets": count.to_string()});
        let mut quota = json!({"apiVersion": "v1", "kind": "ResourceQuota",
            "metadata": {"name": "quota"}, "spec": {"hard": hard}});
        let path = format!("{quotas}/quota");
        if count == 0 {
            self.request("POST", &quotas, Some(&quota));
        } else {
            self.request("PUT", &path, Some(&quota));
        }
        quota["status"] = json!({"hard": hard, "used": {"secrets": "0"}});
        self.request("PUT", &format!("{path}/status"), Some(&quota));
    }

    /// Ends a namespace's end, as its controller would, and makes another of the same name.
    fn bring_back(&self, name: &str) {
        let path = format!("/api/v1/namespaces/{}", self.elsewhere(name));
        let mut namespace = self.cluster.admin().get(&path).unwrap().unwrap();
        namespace["spec"]["finalizers"] = json!([]);
        self.request("PUT", &format!("{path}/finalize"), Some(&namespace));
        self.create_namespace(name);
    }

    fn place_of(&self, trouble: &Trouble) -> String {
        match trouble.name {
            "elsewhere" => self.elsewhere("missing"),
            "beyond-quota" => self.elsewhere("full"),
            "terminating" => self.elsewhere("ending"),
            _ => self.namespace.clone(),
        }
    }

    fn run(&self) -> Evertoken {
        let mut yaml = String::from("state: {dir: \"{here}/state\"}\njobs:\n");
        for trouble in &TROUBLES {
            let (name, place) = (trouble.name, self.place_of(trouble));
            let more = if name == "typed" {
                ", type: Opaque"
            } else {
                ""
            };
            yaml.push_str(&format!(
                "- {{name: {name}, source: {{plugin: dummy, config: {{lifetime: 1h}}}}, outputs: [{{secret: {{namespace: {place}, name: {name}, create: true{more}}}}}]}}\n"
            ));
        }
        let config = self.scene.config(&yaml).unwrap();
        let launch = self.scene.launch().unwrap();
        launch
            .env("KUBECONFIG", &self.account.kubeconfig)
            .args(["run", "--config"])
            .args([config])
            .spawn()
            .unwrap()
    }

    fn value(&self, trouble: &Trouble) -> Option<Vec<u8>> {
        let place = self.place_of(trouble);
        let admin = self.cluster.admin();
        admin.secret_value(&place, trouble.name, "token").ok()?
    }
}

#[test]
fn what_stands_in_the_way_of_a_secret_is_a_line_and_what_is_mended_is_noticed_in_half_a_minute() {
    let Some(stage) = Stage::new() else {
        return;
    };
    stage.make_trouble();
    let process = stage.run();
    for trouble in &TROUBLES {
        let name = trouble.name;
        let failure = stage.scene.failure(&stage.config, &process, name, PATIENCE);
        assert_eq!(failure.code, trouble.code, "{name}: {failure:?}");
        for words in trouble.words {
            assert!(
                failure.message.contains(words),
                "{name}: {words}: {failure:?}"
            );
        }
        let row = stage.scene.row(&stage.config, name).unwrap();
        let next = &row["outputs"][0]["next_try"];
        assert!(
            next.is_string() || row["outputs"][0]["state"] == "writing",
            "{row}"
        );
    }
    // Some more tries of each.
    std::thread::sleep(Duration::from_secs(30));
    for trouble in &TROUBLES {
        (trouble.mend)(&stage);
    }
    let mended = Instant::now();
    for trouble in &TROUBLES {
        let left = NOTICED.saturating_sub(mended.elapsed());
        wait_until(trouble.name, left, || {
            stage
                .value(trouble)
                .filter(|value| value.starts_with(b"token"))
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
    }
    let log = || process.stderr();
    wait_until("the last line", PATIENCE, || {
        (log().matches("output is written again").count() == TROUBLES.len()).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", log()));
    for trouble in &TROUBLES {
        let of = format!("job=\"{}\"", trouble.name);
        let lines: Vec<_> = log()
            .lines()
            .filter(|line| line.contains(&of))
            .map(str::to_owned)
            .collect();
        let failed = lines
            .iter()
            .filter(|line| line.contains("cannot be written"));
        assert_eq!(failed.count(), 1, "{lines:#?}");
    }
}
