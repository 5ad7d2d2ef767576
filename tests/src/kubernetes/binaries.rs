//! etcd and kube-apiserver, built once from the Go modules pinned in `tests/parts/kube` into the target folder, or taken from the folder
//! that `KUBEBUILDER_ASSETS` names.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::process::tied;
use crate::toolchain::run;
use crate::workdir::{locked, package, parts};

/// The variable by which other Kubernetes test tools find a folder with both programs.
const ASSETS: &str = "KUBEBUILDER_ASSETS";
const HINT: &str = "the API server of the tests is built by Go 1.26 or newer; install it, name a folder with etcd and kube-apiserver in \
                    KUBEBUILDER_ASSETS, or leave these tests out by EVERTOKEN_SKIP=kubernetes";
/// The server reports its version from the linker's flags; without them it reports v0.0.0, and clients do not use its features.
const LDFLAGS: &str = "-s -w -X k8s.io/component-base/version.gitVersion=v1.36.3 \
                       -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36";
/// Name of the program, its package.
const PROGRAMS: [(&str, &str); 2] = [
    ("etcd", "go.etcd.io/etcd/server/v3"),
    ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
];

/// Where the programs are.
#[derive(Clone, Debug)]
pub(super) struct Binaries {
    pub(super) etcd: PathBuf,
    pub(super) kube_apiserver: PathBuf,
}

/// Finds or builds the programs: minutes the first time, nothing later.
pub(super) fn provide() -> Result<Binaries> {
    if let Some(folder) = std::env::var_os(ASSETS).map(PathBuf::from) {
        for (name, _) in PROGRAMS {
            if !folder.join(name).is_file() {
                bail!("{ASSETS} names {}, which has no {name}", folder.display());
            }
        }
        return Ok(in_folder(&folder));
    }
    locked("kube", || {
        let (module, home) = (package().join("parts/kube"), parts()?.join("kube"));
        let (bin, stamp) = (home.join("bin"), home.join("stamp"));
        let wanted = fingerprint(&module)?;
        let is_built = PROGRAMS.iter().all(|(name, _)| bin.join(name).is_file());
        if !is_built || std::fs::read_to_string(&stamp).unwrap_or_default() != wanted {
            build(&module, &bin)?;
            std::fs::write(&stamp, wanted)
                .with_context(|| format!("cannot write {}", stamp.display()))?;
        }
        Ok(in_folder(&bin))
    })
}

fn in_folder(folder: &Path) -> Binaries {
    Binaries {
        etcd: folder.join("etcd"),
        kube_apiserver: folder.join("kube-apiserver"),
    }
}

/// Everything the programs depend on.
fn fingerprint(module: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    for name in ["go.mod", "go.sum"] {
        let path = module.join(name);
        hash.update(
            std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?,
        );
    }
    hash.update(LDFLAGS);
    Ok(hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

fn build(module: &Path, bin: &Path) -> Result<()> {
    for (name, source) in PROGRAMS {
        let mut command = tied("go");
        command
            .current_dir(module)
            .args(["build", "-trimpath", "-ldflags", LDFLAGS, "-o"])
            .arg(bin.join(name))
            .arg(source);
        run(command, HINT)?;
    }
    Ok(())
}
