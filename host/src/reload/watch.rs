//! Notices that the files of a configuration have changed: by inotify on their directories, which also sees a ConfigMap's volume swap
//! its link, and by looking at them now and then, for file systems without events. Only what the files are counts: an event is a reason
//! to look.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use futures_core::Stream as _;
use inotify::{EventStream, Inotify, WatchMask};
use tokio::time::{Instant, sleep, timeout};

use crate::config::Watched;
use crate::file::Stamp;

/// How often the files are looked at without an event: network file systems send none, and a link may lead anywhere.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How long the files must have rested: an editor or a deployment writes several, or one in several steps.
const REST: Duration = Duration::from_millis(500);

/// Files that change all the time are read after this.
const LONGEST_UNREST: Duration = Duration::from_secs(5);

/// The pause after an event: somebody may write many other files into the directory.
const PAUSE: Duration = Duration::from_millis(100);

/// The bytes of events that are read at once.
const EVENT_BYTES: usize = 4096;

type EventBuffer = [u8; EVENT_BYTES];

/// A watch of a configuration's files.
pub(crate) struct FileWatch {
    /// What was read.
    known: Watched,
    /// None: the kernel has no more of them, so looking now and then has to do.
    events: Option<EventStream<EventBuffer>>,
    directories: BTreeSet<PathBuf>,
}

impl FileWatch {
    /// A watch of what a configuration was read from.
    pub(crate) fn new(known: Watched) -> Self {
        let mut watch = Self {
            known: Watched::new(),
            events: events(),
            directories: BTreeSet::new(),
        };
        watch.set(known);
        watch
    }

    /// Watches what the configuration was read from since.
    pub(crate) fn set(&mut self, known: Watched) {
        self.known = known;
        self.add_directories();
    }

    /// Ends once the files differ from what was read, and rest. Nothing is lost if it is dropped before.
    pub(crate) async fn changed(&mut self) {
        loop {
            // Timed out: it is time to look.
            let _ = timeout(LOOK_EVERY, self.event()).await;
            let Some(mut last) = self.difference().await else {
                sleep(PAUSE).await;
                continue;
            };
            let since = Instant::now();
            loop {
                sleep(REST).await;
                match self.difference().await {
                    // They are as they were again.
                    None => break,
                    Some(now) if now == last || since.elapsed() >= LONGEST_UNREST => return,
                    Some(now) => last = now,
                }
            }
        }
    }

    /// The files as they are; none: as they were read.
    async fn difference(&mut self) -> Option<Watched> {
        let paths: Vec<PathBuf> = self.known.keys().cloned().collect();
        let look = move || -> Watched {
            let stamped = paths.into_iter().map(|path| {
                let stamp = Stamp::of(&path);
                (path, stamp)
            });
            stamped.collect()
        };
        // On a file system that hangs, this waits as long as it does.
        let now = tokio::task::spawn_blocking(look).await.ok()?;
        // A directory that was missing may be there now.
        self.add_directories();
        (now != self.known).then_some(now)
    }

    /// Ends with an event in one of the directories.
    async fn event(&mut self) {
        let Some(events) = &mut self.events else {
            return std::future::pending().await;
        };
        // Which one does not matter: the files are looked at.
        let next = poll_fn(|context| Pin::new(&mut *events).poll_next(context)).await;
        if !matches!(next, Some(Ok(_))) {
            self.events = None;
        }
    }

    /// A directory is watched for the names in it: a file that is replaced is another file.
    fn add_directories(&mut self) {
        let Some(mut watches) = self.events.as_ref().map(EventStream::watches) else {
            return;
        };
        for path in self.known.keys() {
            let parent = path.parent().filter(|parent| *parent != Path::new(""));
            let parent = parent.unwrap_or(Path::new("."));
            for directory in [parent, path] {
                if !self.directories.contains(directory)
                    && watches.add(directory, changes()).is_ok()
                {
                    self.directories.insert(directory.to_owned());
                }
            }
        }
    }
}

fn events() -> Option<EventStream<EventBuffer>> {
    let events = Inotify::init().and_then(|events| events.into_event_stream([0; EVENT_BYTES]));
    match events {
        Ok(events) => Some(events),
        Err(error) => {
            tracing::info!(%error, seconds = LOOK_EVERY.as_secs(), "the kernel sends no events of the configuration's files; they are looked at now and then");
            None
        }
    }
}

fn changes() -> WatchMask {
    WatchMask::ONLYDIR
        | WatchMask::CREATE
        | WatchMask::MOVE
        | WatchMask::DELETE
        | WatchMask::CLOSE_WRITE
        | WatchMask::ATTRIB
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const SOON: Duration = Duration::from_secs(3);

    fn stamped(paths: &[&Path]) -> Watched {
        let stamped = paths
            .iter()
            .map(|path| (path.to_path_buf(), Stamp::of(path)));
        stamped.collect()
    }

    async fn is_noticed(watch: &mut FileWatch) -> bool {
        timeout(SOON, watch.changed()).await.is_ok()
    }

    #[tokio::test]
    async fn whatever_way_a_file_gets_another_content_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let (file, beside) = (at("evertoken.yaml"), at("beside"));
        let ways: [(&str, &dyn Fn()); 4] = [
            ("written over", &|| std::fs::write(&file, "b").unwrap()),
            ("replaced", &|| {
                std::fs::write(&beside, "c").unwrap();
                std::fs::rename(&beside, &file).unwrap();
            }),
            ("deleted", &|| std::fs::remove_file(&file).unwrap()),
            ("there again", &|| std::fs::write(&file, "d").unwrap()),
        ];
        std::fs::write(&file, "a").unwrap();
        let mut watch = FileWatch::new(stamped(&[&file]));
        for (what, change) in ways {
            change();
            assert!(is_noticed(&mut watch).await, "{what}");
            watch.set(stamped(&[&file]));
        }
    }

    #[tokio::test]
    async fn a_config_maps_swap_of_its_link_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (version, text) in [("..1", "a"), ("..2", "b")] {
            std::fs::create_dir(at(version)).unwrap();
            std::fs::write(at(version).join("evertoken.yaml"), text).unwrap();
        }
        symlink("..1", at("..data")).unwrap();
        symlink("..data/evertoken.yaml", at("evertoken.yaml")).unwrap();
        let mut watch = FileWatch::new(stamped(&[&at("evertoken.yaml")]));
        symlink("..2", at("..data_tmp")).unwrap();
        std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
        assert!(is_noticed(&mut watch).await);
    }

    #[tokio::test]
    async fn a_new_file_in_a_directory_that_was_searched_is_noticed_and_one_beside_the_file_is_not()
    {
        let folder = tempfile::tempdir().unwrap();
        let (file, jobs) = (folder.path().join("a.yaml"), folder.path().join("jobs.d"));
        std::fs::create_dir(&jobs).unwrap();
        std::fs::write(&file, "a").unwrap();
        let mut watch = FileWatch::new(stamped(&[&file, &jobs]));
        std::fs::write(folder.path().join("token"), "t").unwrap();
        assert!(!is_noticed(&mut watch).await);
        std::fs::write(jobs.join("new.yaml"), "b").unwrap();
        assert!(is_noticed(&mut watch).await);
    }

    #[tokio::test]
    async fn a_file_is_read_once_it_rests() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        std::fs::write(&file, "").unwrap();
        let mut watch = FileWatch::new(stamped(&[&file]));
        let begun = Instant::now();
        let writing = tokio::spawn({
            let file = file.clone();
            async move {
                for part in 1..10 {
                    std::fs::write(&file, "x".repeat(part)).unwrap();
                    sleep(REST / 4).await;
                }
            }
        });
        watch.changed().await;
        assert!(begun.elapsed() > 2 * REST + REST / 4);
        writing.await.unwrap();
    }
}
