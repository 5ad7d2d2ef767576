//! Gets Keycloak's distribution from Maven Central and runs its build step, so that later starts are fast.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::process::tied;
use crate::toolchain::run;
use crate::workdir::{RunDir, locked, parts};

const VERSION: &str = "26.4.0";
/// Pinned, so that no version of the plugin is looked for on the network.
const UNPACK: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:unpack";
const HINT: &str = "the tests run Keycloak on a JDK of version 17 or newer and fetch it by Maven; install both, or leave these tests out by \
                    EVERTOKEN_SKIP=keycloak";

/// The folder of the prepared installation: a minute or two the first time, nothing later.
pub(super) fn provide() -> Result<PathBuf> {
    locked("keycloak", || {
        let parts = parts()?;
        let home = parts.join(format!("keycloak-{VERSION}"));
        // Written last: without it the installation is incomplete.
        let stamp = home.join(".prepared");
        if !stamp.is_file() {
            let _ = std::fs::remove_dir_all(&home);
            let scratch = RunDir::new("maven")?;
            run(unpack(&parts, scratch.path()), HINT)?;
            run(prepare(&home), HINT)?;
            std::fs::write(&stamp, VERSION)
                .with_context(|| format!("cannot write {}", stamp.display()))?;
        }
        Ok(home)
    })
}

/// The plugin leaves a marker in its working folder and skips what is marked as done; in `scratch` the marker goes with the folder.
fn unpack(folder: &Path, scratch: &Path) -> Command {
    let mut command = tied("mvn");
    command
        .current_dir(scratch)
        .args(["--batch-mode", "--no-transfer-progress", UNPACK]);
    command.arg(format!(
        "-Dartifact=org.keycloak:keycloak-quarkus-dist:{VERSION}:zip"
    ));
    command.arg(format!("-DoutputDirectory={}", folder.display()));
    command
}

/// Sets the options that are fixed at build time: the database is in memory.
fn prepare(home: &Path) -> Command {
    let mut command = tied(java());
    command
        .args(arguments(home, &home.join("data")))
        .args(["build", "--db=dev-mem"]);
    command
}

/// Keycloak without `kc.sh`, whose java would be a grandchild that no parent-death signal reaches; the caller adds its command
/// and options.
pub(super) fn server(home: &Path, data: &Path) -> Command {
    let mut command = tied(java());
    command.args(arguments(home, data)).current_dir(data);
    command
}

fn java() -> PathBuf {
    std::env::var_os("JAVA_HOME").map_or_else(
        || "java".into(),
        |home| PathBuf::from(home).join("bin/java"),
    )
}

/// The options of `kc.sh` that a server needs. One compiler and one collector: a start takes half the processor time, and
/// Keycloak's throughput does not matter here.
fn arguments(home: &Path, data: &Path) -> Vec<String> {
    let home = home.display();
    let mut arguments: Vec<String> = vec![
        "-XX:TieredStopAtLevel=1".into(),
        "-XX:+UseSerialGC".into(),
        "-Xms64m".into(),
        "-Xmx512m".into(),
        format!("-Dkc.home.dir={home}"),
        format!("-Djboss.server.config.dir={home}/conf"),
        format!(
            "-Dquarkus.transaction-manager.object-store.directory={}/transaction-logs",
            data.display()
        ),
        "-Djava.util.logging.manager=org.jboss.logmanager.LogManager".into(),
        "-Djava.util.concurrent.ForkJoinPool.common.threadFactory=\
         io.quarkus.bootstrap.forkjoin.QuarkusForkJoinWorkerThreadFactory"
            .into(),
        "-Dpicocli.disable.closures=true".into(),
    ];
    arguments.extend(
        ["util", "util.concurrent", "security"]
            .map(|name| format!("--add-opens=java.base/java.{name}=ALL-UNNAMED")),
    );
    arguments.extend(["-cp".into(), format!("{home}/lib/quarkus-run.jar")]);
    arguments.push("io.quarkus.bootstrap.runner.QuarkusEntryPoint".into());
    arguments
}
