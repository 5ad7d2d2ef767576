//! A Pod's in-cluster configuration: its service account's token, the cluster's authority, and the API server's address.

use std::path::{Path, PathBuf};

use http::Uri;

use super::kubeconfig::{aside, certificates, content, token};

/// The Pod's variables for the API server's address; set in every Pod.
pub(super) const HOST_VARIABLE: &str = "KUBERNETES_SERVICE_HOST";
const PORT_VARIABLE: &str = "KUBERNETES_SERVICE_PORT";

/// The files of a Pod's identity.
const TOKEN_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
const AUTHORITY_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";

/// Whether this process runs in a Pod.
pub(super) fn is_here() -> bool {
    std::env::var_os(HOST_VARIABLE).is_some()
}

/// The Pod's cluster and identity, without references to files.
pub(super) async fn read() -> Result<kube::Config, String> {
    let value = |name: &str| std::env::var(name).unwrap_or_default();
    let server = server(&value(HOST_VARIABLE), &value(PORT_VARIABLE))?;
    let files = [TOKEN_FILE, AUTHORITY_FILE].map(PathBuf::from).to_vec();
    aside(files, |_| {
        let mut config = kube::Config::new(server);
        config.auth_info.token = Some(token(Path::new(TOKEN_FILE))?.into());
        let authorities = certificates(&content(Path::new(AUTHORITY_FILE))?);
        let authorities = authorities.map_err(|why| format!("{AUTHORITY_FILE}: {why}"))?;
        config.root_cert = Some(authorities);
        Ok(config)
    })
    .await
}

fn server(host: &str, port: &str) -> Result<Uri, String> {
    let address = match host.parse::<std::net::Ipv6Addr>() {
        Ok(address) => format!("[{address}]"),
        Err(_) => host.to_owned(),
    };
    // Kubernetes' own default port.
    let port = if port.is_empty() { "443" } else { port };
    let url = format!("https://{address}:{port}").parse::<Uri>().ok();
    url.filter(|url| url.host().is_some_and(|host| !host.is_empty()) && url.port_u16().is_some())
        .ok_or_else(|| format!("{HOST_VARIABLE} and {PORT_VARIABLE} do not name an API server"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_server_is_where_the_variables_say() {
        for (host, port, expected) in [
            ("10.96.0.1", "443", Some("https://10.96.0.1:443/")),
            ("10.96.0.1", "", Some("https://10.96.0.1:443/")),
            ("fd00::1", "6443", Some("https://[fd00::1]:6443/")),
            ("api.test", "443", Some("https://api.test:443/")),
            ("", "443", None),
            ("10.96.0.1", "https", None),
            ("10.96.0.1", "99999", None),
        ] {
            let found = server(host, port).ok().map(|url| url.to_string());
            assert_eq!(found.as_deref(), expected, "{host} {port}");
        }
    }
}
