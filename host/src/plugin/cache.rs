//! The compile cache. Compiling takes much memory and is not covered by wasmtime's guarantees for hostile input, so a child
//! process with limits does it, once per plugin and machine; the result is stored in a directory of our own. Its files are
//! machine code that runs with our rights: a directory or file that another user can write is refused.

use std::borrow::Cow;
use std::fs::File;
use std::io::{Read, Seek as _, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, MemfdFlags, Mode, OFlags};
use rustix::io::Errno;
use wasmtime::Engine;
use wasmtime::component::Component;

use super::child::{self, Ended};
use super::engine::{self, BoxError};
use super::inspect::Digest;
use super::limits;
use crate::file::walk::{self, WalkError};
use crate::model::failure::with_causes;

/// The hidden subcommand that compiles: a component on standard input, machine code on standard output.
pub const COMPILE_COMMAND: &str = "compile-plugin";

/// Where compiled plugins are stored.
#[derive(Debug, Clone, Default)]
pub struct CacheSettings {
    /// Our own directory, created when missing; none: each process compiles by itself.
    pub directory: Option<PathBuf>,
    /// A read-only directory that is tried first: an image contains the built-in plugins compiled.
    pub prefilled: Option<PathBuf>,
    /// What compiles plugins.
    pub compiler: Compiler,
}

/// What compiles plugins and validates configurations by their schemas.
#[derive(Debug, Clone, Default)]
pub enum Compiler {
    /// This program, started with a hidden command and limits on time and address space.
    #[default]
    ThisProgram,
    /// Another program with the same interface, for tests.
    Program(PathBuf),
    /// The process itself, without limits: for tests and for short-lived tools that trust the plugin.
    InProcess,
}

impl Compiler {
    /// The program to run; none: the process itself.
    pub(super) fn program(&self) -> Option<PathBuf> {
        match self {
            // Not its path: that may be a newer version by now, with another interface.
            Self::ThisProgram => Some(PathBuf::from("/proc/self/exe")),
            Self::Program(program) => Some(program.clone()),
            Self::InProcess => None,
        }
    }
}

/// The prefix of an error that is not the plugin's, from the compiling process to its parent.
const UNWRITTEN: &str = "cannot write the compiled plugin";

/// The prefix of an error that is the plugin's.
const REJECTED: &str = "it does not compile";

/// Why a plugin could not be compiled or loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// The compiler rejects it.
    #[error("{REJECTED}: {message}")]
    Rejected {
        /// The compiler's message.
        message: String,
    },
    /// It timed out.
    #[error(
        "compiling it took more than {} s; give it longer by `limits.plugin.compile`, or this process more of a processor",
        limit.as_secs()
    )]
    TooSlow {
        /// The limit.
        limit: Duration,
    },
    /// The compiler was killed: by its limit on time or memory, or by the system.
    #[error(
        "the compiler was stopped by {status}; it may use {} s of processor time and {} bytes of address space",
        limits::COMPILE_CPU_TIME.as_secs(),
        limits::COMPILE_ADDRESS_SPACE
    )]
    Killed {
        /// How it ended.
        status: std::process::ExitStatus,
    },
    /// The child process could not be run.
    #[error("cannot run the compiler {program}")]
    Spawn {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file operation failed.
    #[error("{UNWRITTEN}")]
    File(#[source] std::io::Error),
    /// The compiled plugin cannot be loaded.
    #[error("the compiled plugin does not load")]
    Load(#[source] BoxError),
}

impl CacheError {
    /// Whether the plugin itself is the cause, so that only another file helps.
    #[must_use]
    pub const fn is_lasting(&self) -> bool {
        matches!(self, Self::Rejected { .. })
    }

    /// Whether the compiler may have used all of its time, and would again.
    #[must_use]
    pub const fn is_costly(&self) -> bool {
        matches!(
            self,
            Self::TooSlow { .. } | Self::Killed { .. } | Self::Load(_)
        )
    }
}

/// The origin of a compiled component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CacheOutcome {
    /// The read-only directory.
    Prefilled,
    /// Our directory.
    Cached,
    /// Compiled just now, and stored in our directory.
    Compiled,
    /// Compiled just now, and not stored.
    CompiledUnkept,
}

/// Compiled plugins.
pub(super) struct Cache {
    engine: Engine,
    settings: CacheSettings,
    compatibility: u64,
    /// One compilation at a time: each may take hundreds of megabytes.
    compiling: tokio::sync::Mutex<()>,
    complained: AtomicBool,
}

impl Cache {
    pub(super) fn new(engine: Engine, settings: CacheSettings) -> Self {
        Self {
            compatibility: engine::compatibility(&engine),
            engine,
            settings,
            compiling: tokio::sync::Mutex::new(()),
            complained: AtomicBool::new(false),
        }
    }

    /// The compiled component with these bytes, compiled now within `limit` if it is not in the cache. `plugin`: its name.
    pub(super) async fn component(
        self: &Arc<Self>,
        plugin: &str,
        digest: Digest,
        bytes: Cow<'static, [u8]>,
        limit: Duration,
    ) -> Result<(Component, CacheOutcome), CacheError> {
        let name = format!("{digest}-{:016x}.cwasm", self.compatibility);
        if let Some(found) = self
            .blocking({
                let name = name.clone();
                move |cache| cache.find(&name)
            })
            .await?
        {
            return Ok(found);
        }
        let _turn = self.compiling.lock().await;
        let begun = Instant::now();
        tracing::info!(plugin, digest = %digest.short(), "compiling the plugin, once for this version of evertoken");
        // In memory, so that a kill leaves no half of a file in the directory.
        let file = new_file_in_memory()?;
        let out = file.try_clone().map_err(CacheError::File)?;
        self.compile(bytes, out, limit).await?;
        let took_ms = begun.elapsed().as_millis();
        tracing::info!(plugin, took_ms, "the plugin is compiled");
        self.blocking(move |cache| {
            let component = load(&cache.engine, &file).map_err(CacheError::Load)?;
            let Some(kept) = cache.keep(&file, &name) else {
                return Ok((component, CacheOutcome::CompiledUnkept));
            };
            // The kernel can take back memory that is a file's.
            let component = load(&cache.engine, &kept).map_err(CacheError::Load)?;
            Ok((component, CacheOutcome::Compiled))
        })
        .await
    }

    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, CacheError> + Send + 'static,
    ) -> Result<T, CacheError> {
        let cache = Arc::clone(self);
        match tokio::task::spawn_blocking(move || work(&cache)).await {
            Ok(result) => result,
            Err(panic) => Err(CacheError::File(std::io::Error::other(panic))),
        }
    }

    /// A compiled component in one of the directories. One that does not load, e.g. because a crash damaged it, is ignored.
    fn find(&self, name: &str) -> Result<Option<(Component, CacheOutcome)>, CacheError> {
        let places = [
            (
                &self.settings.prefilled,
                FileOwner::RootOrSelf,
                CacheOutcome::Prefilled,
            ),
            (
                &self.settings.directory,
                FileOwner::Itself,
                CacheOutcome::Cached,
            ),
        ];
        for (path, owner, found) in places {
            let Some(path) = path else { continue };
            let file = match Directory::open(path, owner).and_then(|directory| directory.file(name))
            {
                Ok(Some(file)) => file,
                Ok(None) => continue,
                Err(refusal) => {
                    if found == CacheOutcome::Prefilled {
                        tracing::warn!(directory = %path.display(), "compiled plugins are not taken from here: {refusal}");
                    }
                    continue;
                }
            };
            match load(&self.engine, &file) {
                Ok(component) => return Ok(Some((component, found))),
                Err(error) => {
                    tracing::warn!(file = %path.join(name).display(), "a compiled plugin does not load and is compiled anew: {error}");
                }
            }
        }
        Ok(None)
    }

    /// Stores what was compiled in our directory; none: that cannot be done, which must not fail a job.
    fn keep(&self, compiled: &File, name: &str) -> Option<File> {
        let path = self.settings.directory.as_ref()?;
        Directory::create(path)
            .and_then(|directory| directory.keep(compiled, name))
            .inspect_err(|refusal| self.complain(&refusal.to_string()))
            .ok()
    }

    /// Logged once per process: the next plugin fails for the same reason.
    fn complain(&self, reason: &str) {
        if !self.complained.swap(true, Ordering::Relaxed) {
            let directory = self
                .settings
                .directory
                .as_deref()
                .unwrap_or(Path::new(""))
                .display();
            tracing::warn!(%directory, "compiled plugins cannot be kept, so each start compiles them anew: {reason}");
        }
    }

    async fn compile(
        &self,
        bytes: Cow<'static, [u8]>,
        out: File,
        limit: Duration,
    ) -> Result<(), CacheError> {
        let Some(program) = self.settings.compiler.program() else {
            return tokio::task::spawn_blocking(move || precompile(&bytes, out))
                .await
                .map_err(|panic| CacheError::File(std::io::Error::other(panic)))?;
        };
        tokio::time::timeout(limit, compile_in_child(&program, &bytes, out))
            .await
            .unwrap_or(Err(CacheError::TooSlow { limit }))
    }
}

fn new_file_in_memory() -> Result<File, CacheError> {
    let memory = rustix::fs::memfd_create("evertoken-plugin", MemfdFlags::CLOEXEC);
    let memory = memory.map_err(|error| CacheError::File(error.into()))?;
    Ok(File::from(memory))
}

fn precompile(bytes: &[u8], mut out: impl Write) -> Result<(), CacheError> {
    let compiled = engine::new_compiler()
        .map_err(CacheError::Load)?
        .precompile_component(bytes)
        .map_err(|error| CacheError::Rejected {
            message: with_causes(&*BoxError::from(error)),
        })?;
    out.write_all(&compiled).map_err(CacheError::File)
}

async fn compile_in_child(program: &Path, bytes: &[u8], out: File) -> Result<(), CacheError> {
    let out = Stdio::from(OwnedFd::from(out));
    let ended = child::run(program, COMPILE_COMMAND, bytes, out).await;
    let Ended { status, said, .. } = ended.map_err(|source| CacheError::Spawn {
        program: program.display().to_string(),
        source,
    })?;
    if status.success() {
        return Ok(());
    }
    if status.code().is_none() {
        return Err(CacheError::Killed { status });
    }
    let said = said.trim();
    Err(if let Some(why) = said.strip_prefix(UNWRITTEN) {
        CacheError::File(std::io::Error::other(why.trim_start_matches(": ")))
    } else if said.is_empty() {
        let message = format!("the compiler ended with {status}");
        CacheError::Rejected { message }
    } else {
        // The child's message begins like the error's own.
        let message = said.strip_prefix(REJECTED).unwrap_or(said);
        let message = message.trim_start_matches(": ").to_owned();
        CacheError::Rejected { message }
    })
}

/// Implements [`COMPILE_COMMAND`]: limits itself, reads a component and writes machine code.
///
/// # Errors
/// The input is not a component, or too large; input or output failed.
pub fn compile_plugin(input: impl Read, output: impl Write) -> Result<(), CacheError> {
    child::limit_this_process(limits::COMPILE_CPU_TIME, limits::COMPILE_ADDRESS_SPACE)
        .map_err(|error| CacheError::File(error.into()))?;
    let mut bytes = Vec::new();
    let limit = limits::COMPONENT_BYTES as u64;
    input
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(CacheError::File)?;
    if bytes.len() as u64 > limit {
        return Err(CacheError::Rejected {
            message: format!("it has more than {limit} bytes"),
        });
    }
    precompile(&bytes, output)
}

#[expect(
    unsafe_code,
    reason = "loading machine code is what a cache of compiled plugins is for; this is the one place"
)]
fn load(engine: &Engine, file: &File) -> Result<Component, BoxError> {
    // By descriptor: the file that was checked or written is the one that is loaded, whatever happens to its name.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    // SAFETY: the file was written by `Engine::precompile_component`, here or in a process of ours, and no other user can have
    // changed it or will: it is an unnamed file in memory that is ours alone, or it is in a directory that only we (or root) can
    // write and is itself ours (or root's); files there are replaced, never changed. wasmtime checks that version and settings
    // are this engine's.
    let component = unsafe { Component::deserialize_file(engine, path) }?;
    Ok(component)
}

/// The permitted owners of a directory and its files.
#[derive(Clone, Copy)]
enum FileOwner {
    /// This process's user.
    Itself,
    /// Root too, who owns the files of an image.
    RootOrSelf,
}

/// Why a directory or file is not used.
#[derive(Debug, thiserror::Error)]
enum CacheRefusal {
    #[error("{0} belongs to user {1}, who could have put anything into it")]
    Foreign(&'static str, u32),
    #[error("{0} can be written by others, mode {1:04o}; take that from them with `chmod go-w`")]
    Writable(&'static str, u32),
    #[error(transparent)]
    Way(#[from] WalkError),
    #[error("{0}")]
    System(#[from] std::io::Error),
}

impl From<Errno> for CacheRefusal {
    fn from(errno: Errno) -> Self {
        Self::System(errno.into())
    }
}

/// A directory that only its owner can write.
#[derive(Debug)]
struct Directory(OwnedFd);

impl Directory {
    fn open(path: &Path, owner: FileOwner) -> Result<Self, CacheRefusal> {
        let found = walk::open_directory(&std::path::absolute(path)?)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(found, ".", flags, Mode::empty())?;
        check(&directory, "the directory", owner)?;
        Ok(Self(directory))
    }

    fn create(path: &Path) -> Result<Self, CacheRefusal> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)?;
        Self::open(path, FileOwner::Itself)
    }

    /// The file, if there is one; never through a symbolic link.
    fn file(&self, name: &str) -> Result<Option<File>, CacheRefusal> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.0, name, flags, Mode::empty()) {
            Ok(file) => {
                check(&file, "the file", FileOwner::RootOrSelf)?;
                Ok(Some(File::from(file)))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Stores a file under `name`, whole or not at all: it is durable before it is visible.
    fn keep(self, content: &File, name: &str) -> Result<File, CacheRefusal> {
        let (mut new, mut file) = self.new_file()?;
        // From its beginning, wherever its writer left the position that the descriptors share.
        let mut content = content;
        content.rewind()?;
        std::io::copy(&mut content, &mut file)?;
        new.keep(&file, name)?;
        Ok(file)
    }

    /// A new file with a name that is unique among processes and calls.
    fn new_file(self) -> Result<(NewFile, File), CacheRefusal> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!(
            ".new-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        // The leftover of a killed process that had our id.
        let _ = rustix::fs::unlinkat(&self.0, &name, AtFlags::empty());
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.0, &name, flags, Mode::from_raw_mode(0o644))?;
        let new = NewFile {
            directory: self,
            name: Some(name),
        };
        Ok((new, File::from(file)))
    }
}

fn check(file: impl AsFd, what: &'static str, owner: FileOwner) -> Result<(), CacheRefusal> {
    let stat = rustix::fs::fstat(file)?;
    let ours = stat.st_uid == rustix::process::geteuid().as_raw();
    let roots = matches!(owner, FileOwner::RootOrSelf) && stat.st_uid == 0;
    if !ours && !roots {
        return Err(CacheRefusal::Foreign(what, stat.st_uid));
    }
    if stat.st_mode & 0o022 != 0 {
        return Err(CacheRefusal::Writable(what, stat.st_mode & 0o7777));
    }
    Ok(())
}

/// A file that has no final name yet; removed unless it gets one.
struct NewFile {
    directory: Directory,
    name: Option<String>,
}

impl NewFile {
    /// Made durable before it is visible: a file truncated by a crash never has the name.
    fn keep(&mut self, file: &File, name: &str) -> std::io::Result<()> {
        file.sync_all()?;
        if let Some(temporary) = &self.name {
            rustix::fs::renameat(&self.directory.0, temporary, &self.directory.0, name)?;
            self.name = None;
        }
        rustix::fs::fsync(&self.directory.0)?;
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            // If it stays, nothing is lost.
            let _ = rustix::fs::unlinkat(&self.directory.0, name, AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn bytes() -> Cow<'static, [u8]> {
        Cow::Owned(wat::parse_str("(component (core module (func (export \"f\"))))").unwrap())
    }

    fn settings(directory: &Path) -> CacheSettings {
        CacheSettings {
            directory: Some(directory.to_owned()),
            prefilled: None,
            compiler: Compiler::InProcess,
        }
    }

    const A_MINUTE: Duration = Duration::from_secs(60);

    /// The origin of a plugin in a process that starts now.
    async fn found(settings: CacheSettings) -> CacheOutcome {
        let cache = Arc::new(Cache::new(engine::new_engine().unwrap(), settings));
        let bytes = bytes();
        cache
            .component("acme", Digest::of(&bytes), bytes, A_MINUTE)
            .await
            .unwrap()
            .1
    }

    fn compiled_files(directory: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    fn mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[tokio::test]
    async fn the_second_start_compiles_nothing() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("made/when/missing");
        assert_eq!(found(settings(&directory)).await, CacheOutcome::Compiled);
        assert_eq!(found(settings(&directory)).await, CacheOutcome::Cached);
        let files = compiled_files(&directory);
        assert_eq!(files.len(), 1, "{files:?}");
        let name = files[0].file_name().unwrap().to_str().unwrap();
        assert!(
            name.starts_with(&Digest::of(&bytes()).to_string()),
            "{name}"
        );
        assert_eq!(
            directory.metadata().unwrap().permissions().mode() & 0o777,
            0o700
        );
    }

    #[tokio::test]
    async fn a_damaged_file_is_compiled_anew() {
        let directory = tempfile::tempdir().unwrap();
        found(settings(directory.path())).await;
        let file = compiled_files(directory.path()).pop().unwrap();
        let whole = std::fs::read(&file).unwrap();
        for damaged in [&b""[..], b"not machine code", &whole[..whole.len() / 2]] {
            // Replaced, not changed: the file may be mapped.
            std::fs::remove_file(&file).unwrap();
            std::fs::write(&file, damaged).unwrap();
            mode(&file, 0o600);
            assert_eq!(
                found(settings(directory.path())).await,
                CacheOutcome::Compiled
            );
            assert_eq!(
                found(settings(directory.path())).await,
                CacheOutcome::Cached
            );
        }
    }

    #[tokio::test]
    async fn what_others_can_write_is_not_loaded() {
        let directory = tempfile::tempdir().unwrap();
        found(settings(directory.path())).await;
        let file = compiled_files(directory.path()).pop().unwrap();
        mode(&file, 0o666);
        assert_eq!(
            found(settings(directory.path())).await,
            CacheOutcome::Compiled
        );
        mode(directory.path(), 0o777);
        assert_eq!(
            found(settings(directory.path())).await,
            CacheOutcome::CompiledUnkept
        );
        mode(directory.path(), 0o700);
        assert_eq!(
            found(settings(directory.path())).await,
            CacheOutcome::Cached
        );
    }

    #[tokio::test]
    async fn what_belongs_to_somebody_else_is_not_loaded() {
        let directory = tempfile::tempdir().unwrap();
        found(settings(directory.path())).await;
        let us = rustix::process::geteuid();
        let foreign = if us.is_root() {
            std::os::unix::fs::chown(directory.path(), Some(12_345), None).unwrap();
            directory.path()
        } else {
            // Root's directory is another user's, except for root.
            Path::new("/usr")
        };
        assert_eq!(found(settings(foreign)).await, CacheOutcome::CompiledUnkept);
        let refusal = Directory::open(foreign, FileOwner::Itself).unwrap_err();
        assert!(refusal.to_string().contains("belongs to user"), "{refusal}");
    }

    #[tokio::test]
    async fn a_symbolic_link_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        found(settings(directory.path())).await;
        let file = compiled_files(directory.path()).pop().unwrap();
        let target = elsewhere.path().join("target");
        std::fs::rename(&file, &target).unwrap();
        symlink(&target, &file).unwrap();
        assert_eq!(
            found(settings(directory.path())).await,
            CacheOutcome::Compiled
        );
        assert!(!file.is_symlink());
    }

    #[tokio::test]
    async fn a_prefilled_directory_is_tried_first_and_only_read() {
        let (image, own) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        found(settings(image.path())).await;
        mode(image.path(), 0o555);
        let both = CacheSettings {
            prefilled: Some(image.path().to_owned()),
            ..settings(own.path())
        };
        assert_eq!(found(both).await, CacheOutcome::Prefilled);
        assert!(compiled_files(own.path()).is_empty());
        mode(image.path(), 0o755);
    }

    #[tokio::test]
    async fn without_a_directory_the_plugin_runs_from_memory() {
        let unkept = CacheSettings {
            compiler: Compiler::InProcess,
            ..CacheSettings::default()
        };
        assert_eq!(found(unkept).await, CacheOutcome::CompiledUnkept);
        // A file stands where the directory should be.
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(
            found(settings(file.path())).await,
            CacheOutcome::CompiledUnkept
        );
    }

    /// A program in place of this one.
    async fn compiled_by(script: &str, limit: Duration) -> CacheError {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("compiler");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        mode(&program, 0o700);
        let cache = Arc::new(Cache::new(
            engine::new_engine().unwrap(),
            CacheSettings {
                compiler: Compiler::Program(program),
                ..settings(&directory.path().join("cache"))
            },
        ));
        let bytes = bytes();
        let Err(error) = cache
            .component("acme", Digest::of(&bytes), bytes, limit)
            .await
        else {
            panic!("`{script}` compiled");
        };
        // Nothing is left, nor would be if this process had been killed meanwhile.
        assert!(!directory.path().join("cache").exists());
        error
    }

    #[tokio::test]
    async fn a_compiler_that_fails_is_heard() {
        let a_second = Duration::from_secs(1);
        for (script, limit, lasting, part) in [
            (
                "echo 'no such instruction' >&2; exit 1",
                A_MINUTE,
                true,
                "no such instruction",
            ),
            ("kill -9 $$", A_MINUTE, false, "signal: 9"),
            (
                "cat >/dev/null; echo garbage",
                A_MINUTE,
                false,
                "does not load",
            ),
            ("exec sleep 60", a_second, false, "`limits.plugin.compile`"),
        ] {
            let error = compiled_by(script, limit).await;
            assert!(error.to_string().contains(part), "{error}");
            assert_eq!(error.is_lasting(), lasting, "{script}");
        }
    }
}
