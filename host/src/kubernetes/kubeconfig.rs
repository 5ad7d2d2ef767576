//! The files that the client library reads, looked at first: it would wait for the other end of a pipe, and take what never ends into
//! memory.

use std::path::{Path, PathBuf};

use kube::config::{Cluster, Context, Kubeconfig};

use super::connect::describe_kubeconfig;
use crate::file::{self, Unreadable};

/// Bytes of a kubeconfig or of what it names; one for a thousand clusters, with their certificates in it, has a few MiB.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Where a Pod's identity is.
const POD_FILES: [&str; 2] = [
    "/var/run/secrets/kubernetes.io/serviceaccount/token",
    "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt",
];

/// The files in `KUBECONFIG`; none if it is not set or empty.
pub(super) fn from_variable() -> Vec<PathBuf> {
    let Some(variable) = std::env::var_os("KUBECONFIG") else {
        return Vec::new();
    };
    std::env::split_paths(&variable)
        .filter(|path| !path.as_os_str().is_empty())
        .collect()
}

/// kubectl's own, without a variable.
pub(super) fn at_home() -> Option<PathBuf> {
    Some(std::env::home_dir()?.join(".kube/config"))
}

/// Reads and merges kubeconfigs. An error says which file, and quotes nothing of it.
pub(super) async fn read(paths: Vec<PathBuf>) -> Result<Kubeconfig, String> {
    aside(paths, |paths| {
        look_at(paths)?;
        let mut merged = Kubeconfig::default();
        for path in paths {
            merged = Kubeconfig::read_from(path)
                .and_then(|next| merged.merge(next))
                .map_err(|error| describe_kubeconfig(&error))?;
        }
        look_at(&named_files(&merged))?;
        Ok(merged)
    })
    .await
}

/// Whether a Pod's identity can be read.
pub(super) async fn look_at_pod() -> Result<(), String> {
    aside(POD_FILES.map(PathBuf::from).to_vec(), look_at).await
}

async fn aside<T: Send + 'static>(
    paths: Vec<PathBuf>,
    work: impl FnOnce(&[PathBuf]) -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let first = paths.first().cloned().unwrap_or_default();
    match file::aside(&first, move || work(&paths)).await {
        Ok(done) => done,
        Err(why) => Err(cannot_read(&first, &why)),
    }
}

fn look_at<P: AsRef<Path>>(paths: &[P]) -> Result<(), String> {
    for path in paths {
        let path = path.as_ref();
        let (_, metadata) = file::open(path).map_err(|why| cannot_read(path, &why))?;
        if metadata.len() > MAX_FILE_BYTES {
            return Err(format!(
                "{} has more than {} MiB",
                path.display(),
                MAX_FILE_BYTES >> 20
            ));
        }
    }
    Ok(())
}

fn cannot_read(path: &Path, why: &Unreadable) -> String {
    format!("{} cannot be read: {why}", path.display())
}

fn context(kubeconfig: &Kubeconfig) -> Option<&Context> {
    kubeconfig
        .contexts
        .iter()
        .find(|named| Some(&named.name) == kubeconfig.current_context.as_ref())?
        .context
        .as_ref()
}

fn cluster<'k>(kubeconfig: &'k Kubeconfig, context: &Context) -> Option<&'k Cluster> {
    kubeconfig
        .clusters
        .iter()
        .find(|named| named.name == context.cluster)?
        .cluster
        .as_ref()
}

/// The proxy that the current context's cluster names; it goes before the environment's.
pub(super) fn proxy_url(kubeconfig: &Kubeconfig) -> Option<String> {
    let cluster = cluster(kubeconfig, context(kubeconfig)?)?;
    cluster.proxy_url.clone().filter(|url| !url.is_empty())
}

/// The files that the current context is made of; data in the kubeconfig itself goes before a file.
fn named_files(kubeconfig: &Kubeconfig) -> Vec<&String> {
    let Some(context) = context(kubeconfig) else {
        return Vec::new();
    };
    let cluster = cluster(kubeconfig, context);
    let user = kubeconfig
        .auth_infos
        .iter()
        .find(|named| Some(&named.name) == context.user.as_ref())
        .and_then(|named| named.auth_info.as_ref());
    let of_cluster = cluster
        .filter(|cluster| cluster.certificate_authority_data.is_none())
        .and_then(|cluster| cluster.certificate_authority.as_ref());
    let of_user = user.into_iter().flat_map(|user| {
        [
            (
                user.client_certificate_data.is_none(),
                &user.client_certificate,
            ),
            (user.client_key_data.is_none(), &user.client_key),
            (user.token.is_none(), &user.token_file),
        ]
    });
    let of_user = of_user.filter(|(counts, _)| *counts);
    of_cluster
        .into_iter()
        .chain(of_user.filter_map(|(_, file)| file.as_ref()))
        .collect()
}
