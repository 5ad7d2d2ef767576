//! Reads the configuration's files, the first and those that it includes, into specs, and keeps their trees for [`Places`].

use std::collections::{BTreeMap, HashSet};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use serde_json::Value;
use zeroize::Zeroizing;

use super::check::Document;
use super::hide::{hide_secrets, unknown_words};
use super::mistake::{Mistake, Mistakes, SourceFiles, Span};
use super::places::Places;
use super::read::{Diagnostics, Read};
use super::spec::{FileSpec, IncludedSpec};
use super::unit::AnyPath;
use super::variables::note_unmeant;
use super::yaml::{self, Budget, Content, Node};
use super::{Loaded, Refused, Watched, check, include};
use crate::file::{self, Stamp, Unreadable};
use crate::model::PluginFile;
use crate::names::nearest;

/// The file name that means standard input.
pub(super) const STANDARD_INPUT: &str = "-";

/// The first file of a configuration.
pub(super) struct FirstFile {
    pub(super) text: Zeroizing<String>,
    /// Its name in mistakes.
    pub(super) name: String,
    /// The directory that relative paths count from.
    pub(super) directory: PathBuf,
    /// None for standard input.
    pub(super) file: Option<PathBuf>,
    /// The file as it was before it was read.
    pub(super) stamp: Option<Stamp>,
}

/// Reads the first file, or standard input for `-`.
pub(super) fn read_first(path: &Path) -> Result<FirstFile, Mistakes> {
    if path == Path::new(STANDARD_INPUT) {
        let name = "standard input".to_owned();
        return Ok(FirstFile {
            text: read_standard_input(&name)?,
            name,
            directory: absolute(Path::new(".")),
            file: None,
            stamp: None,
        });
    }
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let stamp = Stamp::of(path);
    Ok(FirstFile {
        text: read_text(path, yaml::MAX_BYTES)?,
        stamp,
        name: path.display().to_string(),
        directory: absolute(directory),
        file: Some(path.to_owned()),
    })
}

fn absolute(directory: &Path) -> PathBuf {
    std::path::absolute(directory).unwrap_or_else(|_| directory.to_path_buf())
}

/// Reads a file of a configuration; `left` is the most bytes that it may have.
pub(super) fn read_text(path: &Path, left: usize) -> Result<Zeroizing<String>, Mistakes> {
    let name = path.display().to_string();
    match file::read(path, left) {
        Ok(bytes) => text_of(&bytes, &name),
        Err(Unreadable::TooLong(_)) => Err(Mistakes::one(too_long(&name))),
        Err(why) => Err(unreadable(&name, &why)),
    }
}

fn read_standard_input(name: &str) -> Result<Zeroizing<String>, Mistakes> {
    let mut bytes = Zeroizing::new(Vec::new());
    std::io::stdin()
        .lock()
        .take(yaml::MAX_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| unreadable(name, &error))?;
    if bytes.len() > yaml::MAX_BYTES {
        return Err(Mistakes::one(too_long(name)));
    }
    text_of(&bytes, name)
}

fn unreadable(name: &str, why: &dyn std::error::Error) -> Mistakes {
    Mistakes::one(Mistake::without_text(
        name,
        format!("cannot be read: {why}"),
        Some(
            "name a readable YAML file; `--config FILE` or EVERTOKEN_CONFIG names the first"
                .to_owned(),
        ),
    ))
}

fn too_long(name: &str) -> Mistake {
    Mistake::without_text(
        name,
        format!(
            "longer than {} MiB, all files of the configuration together",
            yaml::MAX_BYTES >> 20
        ),
        Some("ten thousand jobs have 5 MiB; leave out what is no configuration".to_owned()),
    )
}

pub(super) fn text_of(bytes: &[u8], name: &str) -> Result<Zeroizing<String>, Mistakes> {
    std::str::from_utf8(bytes)
        .map(|text| Zeroizing::new(text.to_owned()))
        .map_err(|error| {
            let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
            let column = String::from_utf8_lossy(valid)
                .rsplit('\n')
                .next()
                .map_or(0, |line| line.chars().count())
                + 1;
            let help = Some("save the file as UTF-8".to_owned());
            let mut mistake = Mistake::without_text(name, "not UTF-8 text", help);
            mistake.line = Some(line);
            mistake.column = Some(column);
            Mistakes::one(mistake)
        })
}

/// A longer text that is not valid YAML is not shown at all, since comparing each of its words would take too long.
const MAX_SHOWN_BYTES: usize = 1 << 20;

/// One file after parsing.
struct ParsedFile {
    name: String,
    text: Zeroizing<String>,
    /// None when the text is not valid YAML: any word may be a secret then, so that only known keys are shown.
    tree: Option<Arc<Node>>,
}

/// Reads all files of a configuration.
pub(super) struct ConfigReader {
    parsed: Vec<ParsedFile>,
    directories: Vec<PathBuf>,
    files: Vec<PathBuf>,
    watched: Watched,
    diagnostics: Diagnostics,
    budget: Budget,
    /// The most bytes that further files may have.
    bytes_left: usize,
    /// Mistakes without a place in a text.
    bare: Vec<Mistake>,
}

impl ConfigReader {
    pub(super) fn new() -> Self {
        Self {
            parsed: Vec::new(),
            directories: Vec::new(),
            files: Vec::new(),
            watched: Watched::default(),
            diagnostics: Diagnostics::default(),
            budget: Budget::default(),
            bytes_left: yaml::MAX_BYTES,
            bare: Vec::new(),
        }
    }

    /// Reads the configuration with this first file.
    pub(super) fn read(mut self, first: FirstFile) -> Result<Loaded, Box<Refused>> {
        if let Some(file) = first.file {
            self.watched.insert(file.clone(), first.stamp);
            self.files.push(file);
        }
        let Some(mut file) = self.spec::<FileSpec>(first.text, &first.name, &first.directory)
        else {
            return Err(self.refused(BTreeMap::new()));
        };
        let mut jobs = file.jobs.take().unwrap_or_default();
        let mut outputs = file.outputs.take().unwrap_or_default();
        for path in self.included(&file) {
            self.watched.insert(path.clone(), Stamp::of(&path));
            let text = match read_text(&path, self.bytes_left) {
                Ok(text) => text,
                Err(mistakes) => {
                    self.bare.extend(mistakes.iter().cloned());
                    continue;
                }
            };
            let directory = path.parent().map(Path::to_path_buf).unwrap_or_default();
            let name = path.display().to_string();
            self.files.push(path);
            if let Some(included) = self.spec::<IncludedSpec>(text, &name, &directory) {
                jobs.extend(included.jobs.unwrap_or_default());
                outputs.extend(included.outputs.unwrap_or_default());
            }
        }
        self.no_jobs(&file);
        let document = Document {
            file,
            jobs,
            outputs,
            job_names: self.job_names(),
            directories: self.directories.clone(),
            files: std::mem::take(&mut self.files),
        };
        let config = check::check(&document, &mut self.diagnostics);
        if !self.diagnostics.notes.is_empty() || !self.bare.is_empty() {
            return Err(self.refused(config.plugins));
        }
        let watched = std::mem::take(&mut self.watched);
        let (sources, trees) = self.into_sources();
        Ok(Loaded {
            config,
            places: Places::new(sources, trees),
            watched,
        })
    }

    fn spec<R: Read>(
        &mut self,
        text: Zeroizing<String>,
        name: &str,
        directory: &Path,
    ) -> Option<R> {
        let tree = self.tree(text, name, directory)?;
        if is_configuration(&tree) {
            hide_secrets(&tree, &mut self.diagnostics);
        } else {
            // It may be another file, with a secret in it.
            self.diagnostics.hide(&tree);
        }
        note_unmeant(&tree, &mut self.diagnostics);
        R::read(&tree, &mut self.diagnostics)
    }

    /// The tree of a text; syntax errors are collected.
    fn tree(&mut self, text: Zeroizing<String>, name: &str, directory: &Path) -> Option<Arc<Node>> {
        let source = u32::try_from(self.parsed.len()).unwrap_or(u32::MAX);
        let start = Span {
            source,
            start: 0,
            end: 0,
        };
        self.bytes_left = self.bytes_left.saturating_sub(text.len());
        let mut tree = None;
        if let Some(at) = text.find('\0') {
            let at = u32::try_from(at).unwrap_or(u32::MAX);
            self.diagnostics.note(
                Span {
                    source,
                    start: at,
                    end: at,
                },
                "a NUL character",
                "this is not a text file; save it as UTF-8",
            );
        } else {
            let parsed = yaml::parse(&text, source, &mut self.budget);
            if parsed.tree.is_none() && parsed.notes.is_empty() {
                self.diagnostics
                    .note(start, "the file is empty", "write at least `jobs: […]`");
            }
            self.diagnostics.notes.extend(parsed.notes);
            parsed
                .orphans
                .iter()
                .for_each(|orphan| self.diagnostics.hide(orphan));
            tree = parsed.tree;
        }
        self.parsed.push(ParsedFile {
            name: name.to_owned(),
            text,
            tree: tree.clone(),
        });
        self.directories.push(directory.to_path_buf());
        tree
    }

    /// The files that `include` names, in the order of the patterns and then of their names.
    fn included(&mut self, file: &FileSpec) -> Vec<PathBuf> {
        let Some(patterns) = &file.include else {
            return Vec::new();
        };
        let directory = self.directories.first().cloned().unwrap_or_default();
        let mut search = include::Search::new(&directory);
        for pattern in patterns {
            let AnyPath(path) = &**pattern;
            if let Err(error) = search.add(path) {
                let (message, help) = error.words(path);
                self.diagnostics.note(pattern.span, message, help);
                return Vec::new();
            }
        }
        self.watched.append(&mut search.searched);
        search.found
    }

    fn no_jobs(&mut self, file: &FileSpec) {
        let Some(root) = self.parsed.first().and_then(|parsed| parsed.tree.as_ref()) else {
            return;
        };
        let is_of_tenants = has_key(root, "profiles");
        if !is_of_tenants
            && file.include.is_none()
            && !has_key(root, "jobs")
            && !has_key(root, "include")
        {
            let span = root.span;
            self.diagnostics.note(
                span,
                "the key `jobs` is missing",
                "add `jobs: […]`, or name further files in `include`",
            );
        }
    }

    /// The names of all jobs, including jobs with mistakes.
    fn job_names(&self) -> HashSet<String> {
        let mut names = HashSet::new();
        for tree in self.parsed.iter().filter_map(|parsed| parsed.tree.as_ref()) {
            for job in items(tree, "jobs") {
                if let Some(name) = get(job, "name")
                    && let Content::Scalar(name) = &name.content
                {
                    names.insert(name.text.to_string());
                }
            }
        }
        names
    }

    /// The sources with hidden parts masked, and the trees.
    fn into_sources(self) -> (SourceFiles, Vec<Arc<Node>>) {
        let mut sources = SourceFiles::default();
        let mut trees = Vec::new();
        for parsed in self.parsed {
            let hidden = match parsed.tree {
                Some(tree) => {
                    trees.push(tree);
                    self.diagnostics.hidden_in(sources.next_id())
                }
                None if parsed.text.len() > MAX_SHOWN_BYTES => {
                    std::iter::once(0..parsed.text.len()).collect()
                }
                None => unknown_words(&parsed.text, &KNOWN_WORDS),
            };
            sources.add(&parsed.name, &parsed.text, &hidden);
        }
        (sources, trees)
    }

    fn refused(mut self, plugins: BTreeMap<String, PluginFile>) -> Box<Refused> {
        let notes = std::mem::take(&mut self.diagnostics.notes);
        let bare = std::mem::take(&mut self.bare);
        let watched = std::mem::take(&mut self.watched);
        let (sources, trees) = self.into_sources();
        let mistakes = Mistakes::of_notes(bare, notes, &sources).unwrap_or_else(|| {
            // Unreachable: every failure notes a mistake.
            Mistakes::one(Mistake::without_text(
                "configuration",
                "cannot be read",
                None,
            ))
        });
        Box::new(Refused {
            mistakes,
            plugins,
            places: Places::new(sources, trees),
            watched,
        })
    }
}

/// All keys of the file format, which may be shown of a text that is not valid YAML.
static KNOWN_WORDS: LazyLock<Vec<String>> = LazyLock::new(|| {
    fn collect(schema: &Value, words: &mut Vec<String>) {
        match schema {
            Value::Object(object) => {
                if let Some(Value::Object(properties)) = object.get("properties") {
                    words.extend(properties.keys().cloned());
                }
                object.values().for_each(|value| collect(value, words));
            }
            Value::Array(items) => items.iter().for_each(|item| collect(item, words)),
            _ => {}
        }
    }
    let mut words = Vec::new();
    collect(&super::schema(), &mut words);
    words
});

/// The top-level keys of a file.
static FIRST_KEYS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let schema = super::schema();
    let keys = schema
        .pointer("/$defs/File/properties")
        .and_then(Value::as_object);
    keys.map(|keys| keys.keys().cloned().collect())
        .unwrap_or_default()
});

/// Whether a tree is meant as a configuration: one of its keys is a top-level key, or similar to one.
fn is_configuration(tree: &Node) -> bool {
    let Content::Map(entries) = &tree.content else {
        return false;
    };
    let mut keys = entries.iter().map(|(key, _)| &*key.text);
    let known = || FIRST_KEYS.iter().map(String::as_str);
    entries.is_empty() || keys.any(|key| nearest(key, known()).is_some())
}

pub(super) fn get<'n>(node: &'n Node, key: &str) -> Option<&'n Arc<Node>> {
    let Content::Map(entries) = &node.content else {
        return None;
    };
    let (_, value) = entries.iter().find(|(known, _)| &*known.text == key)?;
    Some(value)
}

fn has_key(node: &Node, key: &str) -> bool {
    get(node, key).is_some()
}

pub(super) fn items<'n>(node: &'n Node, key: &str) -> impl Iterator<Item = &'n Arc<Node>> {
    let list = match get(node, key).map(|node| &node.content) {
        Some(Content::List(items)) => items.as_slice(),
        _ => &[],
    };
    list.iter()
}
