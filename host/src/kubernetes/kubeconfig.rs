//! Kubeconfigs and the files that they name, read by our own rules. The client library would block on a pipe, read endless files
//! into memory, read token files on an async thread, and interpret `NO_PROXY` in its own way.

use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use http::Uri;
use kube::config::{AuthInfo, Cluster, Kubeconfig};
use secrecy::ExposeSecret as _;
use zeroize::Zeroizing;

use super::connect::describe_kubeconfig;
use super::proxy;
use crate::file::{self, Unreadable};
use crate::pem;
use crate::text;

/// Bytes of a kubeconfig or of what it names; one for a thousand clusters, with their certificates in it, has a few MiB.
const MAX_FILE_BYTES: usize = 16 << 20;

/// A context of a kubeconfig, resolved.
pub(super) struct NamedContext {
    /// Its name.
    pub(super) context: String,
    /// Without references to files, and without the proxy.
    pub(super) config: kube::Config,
    /// The cluster's own proxy; it takes precedence over the environment's.
    pub(super) proxy: Option<Uri>,
}

/// The files in `KUBECONFIG`; none if it is not set or empty.
pub(super) fn from_variable() -> Vec<PathBuf> {
    let Some(variable) = std::env::var_os("KUBECONFIG") else {
        return Vec::new();
    };
    std::env::split_paths(&variable)
        .filter(|path| !path.as_os_str().is_empty())
        .collect()
}

/// kubectl's default path.
pub(super) fn at_home() -> Option<PathBuf> {
    Some(std::env::home_dir()?.join(".kube/config"))
}

/// Reads and merges kubeconfigs, and resolves the context `chosen`, or the current one if none has been. An error names the file
/// and quotes nothing from it.
pub(super) async fn read(
    paths: Vec<PathBuf>,
    chosen: Option<String>,
) -> Result<NamedContext, String> {
    aside(paths, |paths| {
        let mut merged = Kubeconfig::default();
        for path in paths {
            look_at(path)?;
            merged = Kubeconfig::read_from(path)
                .and_then(|next| merged.merge(next))
                .map_err(|error| describe_kubeconfig(&error))?;
        }
        named(merged, chosen)
    })
    .await
}

/// Runs blocking file access on a thread for that.
pub(super) async fn aside<T: Send + 'static>(
    paths: Vec<PathBuf>,
    work: impl FnOnce(&[PathBuf]) -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let first = paths.first().cloned().unwrap_or_default();
    match file::aside(&first, move || work(&paths)).await {
        Ok(done) => done,
        Err(why) => Err(cannot_read(&first, &why)),
    }
}

/// A check before the library reads the whole file.
fn look_at(path: &Path) -> Result<(), String> {
    let (_, metadata) = file::open(path).map_err(|why| cannot_read(path, &why))?;
    if metadata.len() > MAX_FILE_BYTES as u64 {
        return Err(cannot_read(path, &Unreadable::TooLong(MAX_FILE_BYTES)));
    }
    Ok(())
}

/// A file's content without a byte order mark and a trailing line end.
pub(super) fn content(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let bytes = file::read(path, MAX_FILE_BYTES).map_err(|why| cannot_read(path, &why))?;
    let meant = text::meant(&bytes).map_err(|why| format!("{}: {why}", path.display()))?;
    Ok(Zeroizing::new(meant.to_vec()))
}

/// A bearer token in a file.
pub(super) fn token(path: &Path) -> Result<String, String> {
    let bytes = content(path)?;
    let token = std::str::from_utf8(&bytes).map(str::trim);
    // The client would fail on an invalid header value without naming the file.
    match token
        .ok()
        .filter(|token| token.bytes().all(|byte| byte.is_ascii_graphic()))
    {
        Some("") => Err(format!(
            "{} is empty, and a token should be in it",
            path.display()
        )),
        Some(token) => Ok(token.to_owned()),
        None => Err(format!(
            "{} holds something else than a token",
            path.display()
        )),
    }
}

/// The certificates in PEM text.
pub(super) fn certificates(text: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let found = pem::certificates(text)?.into_iter();
    Ok(found.map(|(_, der)| der.to_vec()).collect())
}

fn cannot_read(path: &Path, why: &Unreadable) -> String {
    format!("{} cannot be read: {why}", path.display())
}

/// The cluster and the user of a context.
fn named(kubeconfig: Kubeconfig, chosen: Option<String>) -> Result<NamedContext, String> {
    let is_current = chosen.is_none();
    let current = kubeconfig.current_context.filter(|name| !name.is_empty());
    let Some(name) = chosen.or(current) else {
        return Err(
            "it has no current context; choose one with `kubectl config use-context`".to_owned(),
        );
    };
    let mut contexts = kubeconfig.contexts.into_iter();
    let context = contexts.find(|named| named.name == name);
    let Some(context) = context.and_then(|named| named.context) else {
        return Err(if is_current {
            format!(
                "its current context is `{name}`, and there is no such context in it; choose one with `kubectl config use-context`"
            )
        } else {
            format!("the context `{name}`, which this process began with, is not in it any more")
        });
    };
    let mut clusters = kubeconfig.clusters.into_iter();
    let cluster = clusters.find(|named| named.name == context.cluster);
    let Some(mut cluster) = cluster.and_then(|named| named.cluster) else {
        return Err(format!(
            "its context `{name}` is about a cluster `{}`, and there is no such cluster in it",
            context.cluster
        ));
    };
    let mut users = kubeconfig.auth_infos.into_iter();
    // As in kubectl, a user that does not exist is anonymous.
    let user = users.find(|named| Some(&named.name) == context.user.as_ref());
    let mut user = user.and_then(|named| named.auth_info).unwrap_or_default();
    fill_in_cluster(&mut cluster)?;
    fill_in_user(&mut user)?;
    let config = config(&cluster, user)?;
    let proxy = cluster.proxy_url.filter(|url| !url.is_empty());
    let proxy = proxy.as_deref().map(proxy::parse).transpose()?;
    Ok(NamedContext {
        context: name,
        config,
        proxy,
    })
}

fn config(cluster: &Cluster, mut user: AuthInfo) -> Result<kube::Config, String> {
    let server = cluster.server.as_deref().unwrap_or_default();
    // The client library accepts a server without a scheme, and fails at its first request.
    let is_whole =
        |url: &Uri| matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some();
    let url = server.parse::<Uri>().ok().filter(is_whole);
    let url =
        url.ok_or("its cluster's `server` is not the URL of one; write `https://host:port`")?;
    if let Some(exec) = &mut user.exec
        && exec.provide_cluster_info
    {
        let cluster = cluster.try_into();
        exec.cluster = Some(cluster.map_err(|error| describe_kubeconfig(&error))?);
    }
    let mut config = kube::Config::new(url);
    config.root_cert = authorities(cluster)?;
    config.accept_invalid_certs = cluster.insecure_skip_tls_verify.unwrap_or_default();
    config.disable_compression = cluster.disable_compression.unwrap_or_default();
    config.tls_server_name.clone_from(&cluster.tls_server_name);
    config.auth_info = user;
    Ok(config)
}

fn authorities(cluster: &Cluster) -> Result<Option<Vec<Vec<u8>>>, String> {
    let Some(data) = &cluster.certificate_authority_data else {
        return Ok(None);
    };
    let found = match BASE64.decode(data.trim().as_bytes()) {
        Ok(text) => certificates(&text),
        Err(_) => Err("it is not in base64".to_owned()),
    };
    found
        .map(Some)
        .map_err(|why| format!("its cluster's certificate authority cannot be used: {why}"))
}

/// Replaces the names of files by their content; data in the kubeconfig itself takes precedence over a file.
fn fill_in_cluster(cluster: &mut Cluster) -> Result<(), String> {
    fill_in(
        &mut cluster.certificate_authority_data,
        cluster.certificate_authority.take(),
    )
}

fn fill_in_user(user: &mut AuthInfo) -> Result<(), String> {
    fill_in(
        &mut user.client_certificate_data,
        user.client_certificate.take(),
    )?;
    let key = user.client_key_data.as_ref();
    if key.is_none_or(|key| key.expose_secret().is_empty()) {
        let mut key = None;
        fill_in(&mut key, user.client_key.take())?;
        user.client_key_data = key.map(Into::into);
    }
    user.client_key = None;
    let token = user.token.take();
    let token = token.filter(|token| !token.expose_secret().is_empty());
    user.token = match (token, user.token_file.take()) {
        (None, Some(path)) if !path.is_empty() => Some(self::token(Path::new(&path))?.into()),
        (token, _) => token,
    };
    Ok(())
}

fn fill_in(data: &mut Option<String>, path: Option<String>) -> Result<(), String> {
    data.take_if(|data| data.is_empty());
    if let (None, Some(path)) = (&data, path.filter(|path| !path.is_empty())) {
        *data = Some(BASE64.encode(&content(Path::new(&path))?));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::test_support::make_fifo;

    fn whole() -> Value {
        json!({
            "current-context": "x",
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": "https://k8s.test:6443"}}],
            "users": [{"name": "u", "user": {"token": "hidden"}}],
        })
    }

    /// The result for a kubeconfig in a folder, with a member changed.
    async fn made(folder: &Path, pointer: &str, value: Value) -> Result<NamedContext, String> {
        let mut kubeconfig = whole();
        *kubeconfig.pointer_mut(pointer).unwrap() = value;
        let path = folder.join("config");
        std::fs::write(&path, kubeconfig.to_string()).unwrap();
        read(vec![path], None).await
    }

    #[tokio::test]
    async fn a_kubeconfig_that_leads_nowhere_says_what_is_missing_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        make_fifo(Path::new(&at("pipe")));
        std::fs::write(at("utf-16"), b"\xff\xfet\0o\0k\0").unwrap();
        std::fs::write(at("lines"), "hidden\nhidden\n").unwrap();
        std::fs::write(at("empty"), "\n").unwrap();
        let user = "/users/0/user";
        let cluster = "/clusters/0/cluster";
        let with_ca = |key: &str, value: &str| json!({"server": "https://k8s.test", key: value});
        for (pointer, value, words) in [
            ("/current-context", json!(""), "no current context"),
            ("/current-context", json!("y"), "its current context is `y`"),
            (
                "/contexts/0/context/cluster",
                json!("d"),
                "about a cluster `d`",
            ),
            (cluster, json!({}), "`server` is not the URL"),
            (
                cluster,
                json!({"server": "k8s.test:6443"}),
                "`server` is not the URL",
            ),
            (cluster, json!({"server": "k8s"}), "`server` is not the URL"),
            (
                cluster,
                json!({"server": "hidden hidden"}),
                "`server` is not the URL",
            ),
            (
                cluster,
                with_ca("certificate-authority-data", "aGlkZGVu"),
                "authority cannot be used: it holds no certificate; a PEM file",
            ),
            (
                cluster,
                with_ca("certificate-authority", "nowhere"),
                "nowhere cannot be read: it does not exist",
            ),
            (
                cluster,
                with_ca("certificate-authority", "pipe"),
                "pipe cannot be read: it is a pipe",
            ),
            (
                cluster,
                with_ca("proxy-url", "hidden"),
                "`proxy-url` is not the URL",
            ),
            (
                user,
                json!({"tokenFile": "pipe"}),
                "pipe cannot be read: it is a pipe",
            ),
            (
                user,
                json!({"tokenFile": "utf-16"}),
                "utf-16: it is UTF-16 text",
            ),
            (
                user,
                json!({"tokenFile": "lines"}),
                "lines holds something else than a token",
            ),
            (user, json!({"tokenFile": "empty"}), "empty is empty"),
            (
                user,
                json!({"client-key": "/dev/zero"}),
                "/dev/zero cannot be read: it is a device",
            ),
        ] {
            let Err(said) = made(folder.path(), pointer, value.clone()).await else {
                panic!("{pointer} {value}");
            };
            assert!(said.contains(words), "{pointer} {value}: {said}");
            assert!(!said.contains("hidden"), "{said}");
        }
    }

    #[tokio::test]
    async fn a_process_stays_in_the_context_that_it_began_with() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        let mut kubeconfig = whole();
        let context = json!({"name": "other", "context": {"cluster": "c", "user": "u"}});
        let contexts = kubeconfig["contexts"].as_array_mut().unwrap();
        contexts.push(context);
        kubeconfig["current-context"] = json!("other");
        std::fs::write(&path, kubeconfig.to_string()).unwrap();
        for (chosen, expected) in [
            (None, Ok("other")),
            (Some("x"), Ok("x")),
            (
                Some("gone"),
                Err("the context `gone`, which this process began with, is not in it any more"),
            ),
        ] {
            let read = read(vec![path.clone()], chosen.map(str::to_owned)).await;
            let read = read.map(|named| named.context);
            assert_eq!(read.as_deref().map_err(String::as_str), expected);
        }
    }

    #[tokio::test]
    async fn what_files_hold_is_read_once_without_what_nobody_means_around_it() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "\u{feff}tok\r\n").unwrap();
        std::fs::write(folder.path().join("key"), "\u{feff}key\n").unwrap();
        for (user, token, key) in [
            (json!({"tokenFile": "token"}), Some("tok"), None),
            (
                json!({"token": "", "tokenFile": "token"}),
                Some("tok"),
                None,
            ),
            (
                json!({"token": "own", "tokenFile": "token"}),
                Some("own"),
                None,
            ),
            (json!({"client-key": "key"}), None, Some("a2V5")),
            (
                json!({"client-key-data": "b3du", "client-key": "key"}),
                None,
                Some("b3du"),
            ),
            (json!({}), None, None),
        ] {
            let named = made(folder.path(), "/users/0/user", user.clone()).await;
            let found = named.unwrap().config.auth_info;
            let exposed = |secret: &Option<secrecy::SecretString>| {
                secret
                    .as_ref()
                    .map(|secret| secret.expose_secret().to_owned())
            };
            assert_eq!(exposed(&found.token).as_deref(), token, "{user}");
            assert_eq!(exposed(&found.client_key_data).as_deref(), key, "{user}");
            assert_eq!((found.token_file, found.client_key), (None, None));
        }
    }
}
