//! The path of a process's control socket, for the process, which creates it, and for the commands that look for it. Unless the
//! configuration names it, it is in a runtime directory, under a name derived from the configuration's path, so that two
//! processes of one user with two configurations use different sockets.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use sha2::{Digest as _, Sha256};

use super::Exit;
use super::configuration::{ConfigArguments, DEFAULT_PATH, path_or};
use super::stderr::say;
use crate::config::{Loaded, glance};
use crate::model::{Config, StateLocation};
use crate::serve::control::{self, ControlError, ControlSocket};

/// Its name for the default configuration.
const NAME: &str = "evertoken.sock";

/// The runtime directory of system services (hier(7), FHS 3.0 §3.15).
const SYSTEM_DIRECTORY: &str = "/run/evertoken";

/// Its path in the state directory, which belongs to this configuration; in a directory of its own, since everyone may write in a
/// Pod's volume.
const NAME_IN_STATE: &str = "control/evertoken.sock";

/// The options that name the running process.
#[derive(Debug, Args)]
pub(super) struct TargetArguments {
    #[command(flatten)]
    config: ConfigArguments,

    /// The control socket of the process. Default: the one in the configuration, or the process's default for this configuration.
    #[arg(long, value_name = "PATH", env = "EVERTOKEN_SOCKET", value_parser = path_or(""))]
    socket: Option<PathBuf>,
}

impl TargetArguments {
    /// The checked configuration.
    ///
    /// # Errors
    /// All mistakes have been shown; only the exit code is returned.
    pub(super) async fn load(&self) -> Result<Loaded, Exit> {
        self.config.load().await
    }

    /// Whether the command line or the environment names the socket.
    pub(super) fn names_socket(&self) -> bool {
        self.named_socket().is_some()
    }

    fn named_socket(&self) -> Option<&PathBuf> {
        self.socket
            .as_ref()
            .filter(|path| !path.as_os_str().is_empty())
    }

    /// The control socket, if one was named or a process listens at a default path.
    pub(super) async fn find(&self) -> Result<PathBuf, NotFound> {
        if let Some(socket) = self.named_socket() {
            return Ok(socket.clone());
        }
        let path = &self.config.config;
        let glance = glance::glance(path);
        if let Some(socket) = glance.control_socket {
            return Ok(socket);
        }
        let places = places(path, glance.state_dir.as_deref());
        let (mut silent, mut unknown) = (Vec::new(), Vec::new());
        for place in &places {
            match control::is_served(place).await {
                Ok(true) => return Ok(place.clone()),
                Ok(false) => silent.push(place.clone()),
                Err(why) => unknown.push(why),
            }
        }
        let others = served_beside(&places).await;
        match &others[..] {
            [only] if path == Path::new(DEFAULT_PATH) && !path.exists() => Ok(only.clone()),
            _ => Err(NotFound {
                silent,
                unknown,
                others,
            }),
        }
    }

    /// The control socket; prints a message if there is none.
    ///
    /// # Errors
    /// No process was found, which has been printed.
    pub(super) async fn require(&self) -> Result<PathBuf, Exit> {
        self.find().await.map_err(|not_found| {
            say(&not_found.to_string());
            Exit::Failure
        })
    }
}

/// No process listens on a default path.
#[derive(Debug)]
pub(super) struct NotFound {
    /// Paths on which no process listens.
    silent: Vec<PathBuf>,
    /// Paths for which that is unknown.
    unknown: Vec<ControlError>,
    /// Paths on which processes with another configuration listen.
    others: Vec<PathBuf>,
}

impl std::fmt::Display for NotFound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("error: no evertoken process with this configuration was found")?;
        for why in &self.unknown {
            write!(f, "; {why}")?;
        }
        if !self.silent.is_empty() {
            let places = listed(&self.silent);
            write!(
                f,
                "; none listens on {places}: is it running, and with the same --config?"
            )?;
        }
        if !self.others.is_empty() {
            let others = listed(&self.others);
            write!(
                f,
                " With another configuration: {others}; take one of them by --socket"
            )?;
        }
        Ok(())
    }
}

fn listed(paths: &[PathBuf]) -> String {
    let paths: Vec<String> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    paths.join(" or ")
}

/// Creates the control socket of a process with this configuration, which was read from `path`. If the configuration names the
/// socket, it must succeed; otherwise the process runs without one.
///
/// # Errors
/// The configured one cannot be created.
pub(super) async fn bind(
    config: &Config,
    path: &Path,
) -> Result<Option<ControlSocket>, ControlError> {
    if let Some(socket) = &config.control {
        return ControlSocket::bind(socket).await.map(Some);
    }
    let state_dir = match &config.state {
        StateLocation::Directory { path, .. } => Some(path.as_path()),
        StateLocation::Memory | StateLocation::Secrets { .. } => None,
    };
    let mut why = String::new();
    for place in places(path, state_dir) {
        match ControlSocket::bind(&place).await {
            Ok(control) => return Ok(Some(control)),
            Err(error) => {
                let is_in_use = matches!(error, ControlError::InUse(_));
                let _ = write!(why, "; {:#}", anyhow::Error::from(error));
                if is_in_use {
                    break;
                }
            }
        }
    }
    tracing::warn!(
        "no control socket, so `evertoken status` does not find this process; name a place for it by `control: {{socket: …}}`{why}"
    );
    Ok(None)
}

/// The default paths for a process with this configuration, in order of preference. The state directory is last: not every
/// configuration has one, and it may be on a shared disk.
fn places(config: &Path, state_dir: Option<&Path>) -> Vec<PathBuf> {
    let name = name(config);
    let in_directories = directories(|name| std::env::var_os(name))
        .into_iter()
        .map(|directory| directory.join(&name));
    let in_state = state_dir.map(|directory| directory.join(NAME_IN_STATE));
    in_directories.chain(in_state).collect()
}

fn directories(variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    // systemd's variable may contain several directories.
    let of_service = variable("RUNTIME_DIRECTORY")
        .and_then(|directories| std::env::split_paths(&directories).next());
    let of_user =
        variable("XDG_RUNTIME_DIR").map(|directory| Path::new(&directory).join("evertoken"));
    let mut directories: Vec<PathBuf> = of_service
        .into_iter()
        .chain(of_user)
        .filter(|directory| directory.is_absolute())
        .chain([PathBuf::from(SYSTEM_DIRECTORY)])
        .collect();
    directories.dedup();
    directories
}

/// The same for each spelling of the path. Only its directory is resolved: the file itself is a changing link in a mounted
/// ConfigMap.
fn name(config: &Path) -> String {
    let absolute = std::path::absolute(config).unwrap_or_else(|_| config.to_owned());
    let resolved = absolute
        .parent()
        .and_then(|directory| std::fs::canonicalize(directory).ok())
        .zip(absolute.file_name())
        .map(|(directory, name)| directory.join(name));
    let path = resolved.unwrap_or(absolute);
    if path == Path::new(DEFAULT_PATH) {
        return NAME.to_owned();
    }
    let digest = Sha256::digest(path.as_os_str().as_encoded_bytes());
    let (first, _) = digest.split_at(4);
    format!("evertoken-{}.sock", data_encoding::HEXLOWER.encode(first))
}

/// Sockets in the directories of these paths on which a process listens.
async fn served_beside(places: &[PathBuf]) -> Vec<PathBuf> {
    let mut served = Vec::new();
    let directories = places.iter().filter_map(|place| place.parent());
    let entries = directories
        .filter_map(|directory| std::fs::read_dir(directory).ok())
        .flatten()
        .filter_map(Result::ok);
    for entry in entries {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_ours = name.starts_with("evertoken") && name.ends_with(".sock");
        if is_ours && matches!(control::is_served(&entry.path()).await, Ok(true)) {
            served.push(entry.path());
        }
    }
    served
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn what_is_set_to_nothing_is_not_set() {
        #[derive(Parser)]
        struct Command {
            #[command(flatten)]
            target: TargetArguments,
        }
        for (arguments, socket, config) in [
            (
                vec!["x", "--socket", "", "--config", ""],
                false,
                DEFAULT_PATH,
            ),
            (vec!["x", "--socket", "/run/s", "--config", "c"], true, "c"),
            (vec!["x"], false, DEFAULT_PATH),
        ] {
            let target = Command::try_parse_from(&arguments).unwrap().target;
            assert_eq!(target.names_socket(), socket, "{arguments:?}");
            assert_eq!(target.config.config, Path::new(config), "{arguments:?}");
        }
    }

    #[test]
    fn the_socket_is_in_the_services_directory_else_the_users_else_the_machines() {
        for (variables, expected) in [
            (
                vec![
                    ("RUNTIME_DIRECTORY", "/run/a:/run/b"),
                    ("XDG_RUNTIME_DIR", "/run/user/1"),
                ],
                vec!["/run/a", "/run/user/1/evertoken", "/run/evertoken"],
            ),
            (
                vec![("RUNTIME_DIRECTORY", "/run/evertoken")],
                vec!["/run/evertoken"],
            ),
            (
                vec![("XDG_RUNTIME_DIR", "/run/user/1")],
                vec!["/run/user/1/evertoken", "/run/evertoken"],
            ),
            (
                vec![("RUNTIME_DIRECTORY", ""), ("XDG_RUNTIME_DIR", "relative")],
                vec!["/run/evertoken"],
            ),
        ] {
            let found = directories(|name| {
                let found = variables.iter().find(|(of, _)| *of == name);
                found.map(|(_, value)| OsString::from(value))
            });
            let expected: Vec<_> = expected.into_iter().map(PathBuf::from).collect();
            assert_eq!(found, expected, "{variables:?}");
        }
    }

    #[test]
    fn its_name_is_the_configurations_however_that_is_spelled() {
        let folder = tempfile::tempdir().unwrap();
        let folder = std::fs::canonicalize(folder.path()).unwrap();
        std::fs::create_dir(folder.join("a")).unwrap();
        std::os::unix::fs::symlink(folder.join("a"), folder.join("link")).unwrap();
        let of = |path: &str| name(&folder.join(path));
        assert_eq!(of("a/one.yaml"), of("a/../a/./one.yaml"));
        assert_eq!(of("a/one.yaml"), of("link/one.yaml"));
        assert_ne!(of("a/one.yaml"), of("a/two.yaml"));
        assert_ne!(of("a/one.yaml"), of("one.yaml"));
        // A ConfigMap's file is a link to a new file after each change.
        let before = of("a/one.yaml");
        std::os::unix::fs::symlink(folder.join("two.yaml"), folder.join("a/one.yaml")).unwrap();
        assert_eq!(of("a/one.yaml"), before);
        assert_eq!(name(Path::new(DEFAULT_PATH)), NAME);
    }
}
