//! The image's file system as `deploy/image-root` lays it out: the binary runs in it alone, as the image's user, with nothing writable, and
//! takes the built-in plugins compiled ahead.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use evertoken_tests::evertoken::{Finished, Launch, binary};
use evertoken_tests::issuer::Issuer;
use evertoken_tests::pki::{Authority, server_config};
use evertoken_tests::server::Behaviour;
use evertoken_tests::workdir::{RunDir, workspace};

/// Compiling the built-in plugins takes seconds on idle cores.
const PATIENCE: Duration = Duration::from_secs(180);

/// What a container runtime does: the root read-only, `/proc`, `/etc/hosts`, a volume and its certificates mounted, the image's user, in a mount namespace that
/// ends with the process. Arguments: root folder, the volume's folder, the command.
const CONTAINER: &str = r#"
set -e
root=$1 volume=$2
shift 2
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --bind "$volume" "$root/mnt"
mount --bind "$volume/hosts" "$root/etc/hosts"
if [ -e "$volume/certificates" ]; then
  mount --bind "$volume/certificates" "$root/etc/ssl/certs/ca-certificates.crt"
fi
mount -o remount,bind,ro "$root"
exec chroot --userspec=65532:65532 "$root" "$@"
"#;

/// Built once: the tests only read it. None where the machine does not let a test be root and mount.
static ROOT: LazyLock<Option<RunDir>> = LazyLock::new(|| {
    let mounts = Command::new("unshare")
        .args(["--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"])
        .status();
    if !rustix::process::geteuid().is_root() || !mounts.is_ok_and(|status| status.success()) {
        return None;
    }
    let folder = RunDir::new("image").unwrap();
    let built = Command::new(workspace().unwrap().join("deploy/image-root"))
        .arg(binary().unwrap())
        .arg(folder.path().join("root"))
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .output()
        .unwrap();
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    // The mount points, as the runtime makes them.
    std::fs::create_dir(folder.path().join("root/mnt")).unwrap();
    folder.write("root/etc/hosts", "").unwrap();
    Some(folder)
});

/// The image and a volume of the test's own.
struct Image {
    root: PathBuf,
    volume: RunDir,
}

impl Image {
    fn new() -> Option<Self> {
        let Some(folder) = &*ROOT else {
            println!("skipped: running an image needs root with CAP_SYS_ADMIN");
            return None;
        };
        let volume = RunDir::new("volume").unwrap();
        let out = volume.path().join("out");
        std::fs::create_dir(&out).unwrap();
        // As the kubelet writes it.
        volume.write("hosts", "127.0.0.1\tlocalhost\n").unwrap();
        std::os::unix::fs::chown(&out, Some(65532), Some(65532)).unwrap();
        Some(Self {
            root: folder.path().join("root"),
            volume,
        })
    }

    /// Runs a command of the image to its end.
    fn run(&self, command: &[&str], variables: &[(&str, &str)]) -> Finished {
        let mut launch = Launch::of(Path::new("unshare"))
            // As runtimes take it from /etc/passwd.
            .env("HOME", "/")
            .args(["--mount", "--propagation", "private", "sh", "-c", CONTAINER])
            .args(["container"])
            .args([self.root.as_path(), self.volume.path()])
            .args(command);
        for (name, value) in variables {
            launch = launch.env(name, value);
        }
        launch.finish(PATIENCE).unwrap()
    }

    fn once(&self, config: &str, timeout: &str) -> Finished {
        self.volume.write("evertoken.yaml", config).unwrap();
        let binary = "/usr/local/bin/evertoken";
        self.run(
            &[
                binary,
                "once",
                "-v",
                "--timeout",
                timeout,
                "--config",
                "/mnt/evertoken.yaml",
            ],
            &[],
        )
    }

    fn written(&self, name: &str) -> String {
        std::fs::read_to_string(self.volume.path().join("out").join(name)).unwrap()
    }
}

#[test]
fn the_image_lists_its_plugins_as_its_own_user() {
    let Some(image) = Image::new() else { return };
    let finished = image.run(&["/usr/local/bin/evertoken", "plugin", "list"], &[]);
    assert_eq!(finished.code(), Some(0), "{}", finished.stderr);
    for plugin in ["oauth2", "mirror", "template", "dummy"] {
        assert!(finished.stdout.contains(plugin), "{}", finished.stdout);
    }
}

#[test]
fn a_job_runs_in_the_read_only_image_with_the_plugins_compiled_ahead() {
    let Some(image) = Image::new() else { return };
    let finished = image.once(
        r#"
state: {dir: /mnt/out/state}
jobs:
- name: demo
  source: {plugin: dummy, config: {lifetime: 1h}}
  outputs:
  - file: {path: /mnt/out/token}
    format: {plugin: template, config: {template: "Bearer {{ token }}"}}
"#,
        "20s",
    );
    assert_eq!(finished.code(), Some(0), "{}", finished.stderr);
    assert_eq!(image.written("token"), "Bearer token 1");
    let loaded: Vec<&str> = finished
        .stderr
        .lines()
        .filter(|line| line.contains("plugin loaded"))
        .collect();
    assert_eq!(loaded.len(), 2, "{}", finished.stderr);
    for line in loaded {
        assert!(line.contains("Prefilled"), "{line}");
    }
    assert!(
        !finished.stderr.contains("compiled plugins"),
        "no complaint about a cache: {}",
        finished.stderr
    );
}

#[test]
fn names_resolve_in_the_image_and_issuers_are_judged_by_its_certificates() {
    let Some(image) = Image::new() else { return };
    let authority = Authority::new("in the image's store").unwrap();
    let identity = authority.server(&["localhost"]).unwrap();
    let tls = server_config(&identity, None).unwrap();
    let issuer = Issuer::start_tls("localhost", tls).unwrap();
    issuer.always("/token", Behaviour::token("over-tls", 3600));
    let config = format!(
        r#"
jobs:
- name: local
  source:
    plugin: oauth2
    config: {{grant: client_credentials, token_url: "{}", client_id: svc, client_auth: none}}
  outputs:
  - file: {{path: /mnt/out/token}}
"#,
        issuer.url("/token")
    );
    let refused = image.once(&config, "2s");
    assert_eq!(refused.code(), Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains("certificate"), "{}", refused.stderr);

    image.volume.write("certificates", authority.pem()).unwrap();
    let finished = image.once(&config, "20s");
    assert_eq!(finished.code(), Some(0), "{}", finished.stderr);
    assert_eq!(image.written("token"), "over-tls");
}

#[test]
fn the_image_without_arguments_is_kube_token_refresher_where_its_variables_are_set() {
    let Some(image) = Image::new() else { return };
    // A setting that only the front end knows, and refuses: nothing is started.
    let variables = [("KTR_INTERVAL", "0")];
    for command in [
        vec!["/usr/local/bin/evertoken"],
        vec!["/usr/local/bin/ktr"],
        vec!["/usr/local/bin/ktr", "--secret.name=a"],
    ] {
        let finished = image.run(&command, &variables);
        assert_eq!(
            finished.code(),
            Some(64),
            "{command:?}: {}",
            finished.stderr
        );
        assert!(
            finished.stderr.contains("oidc.tokenurl"),
            "{}",
            finished.stderr
        );
    }
}

#[test]
fn the_dockerfile_starts_the_binary_without_arguments() {
    let path = workspace().unwrap().join("deploy/Dockerfile");
    let dockerfile = std::fs::read_to_string(path).unwrap();
    let says = |instruction: &str| {
        dockerfile
            .lines()
            .find(|line| line.starts_with(instruction))
            .map(str::to_owned)
    };
    assert_eq!(
        says("ENTRYPOINT").as_deref(),
        Some(r#"ENTRYPOINT ["/usr/local/bin/evertoken"]"#)
    );
    assert_eq!(
        says("CMD"),
        None,
        "arguments of the image would hide the KTR_ variables of a Deployment that has none"
    );
    assert_eq!(says("USER").as_deref(), Some("USER 65532:65532"));
}
