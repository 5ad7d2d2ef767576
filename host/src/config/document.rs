//! Reads the configuration's files, the first and those it includes, into records; keeps their trees for [`Places`].

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use serde_json::Value;
use zeroize::Zeroizing;

use super::check::Document;
use super::file::{File, Included, Job, SharedOutput};
use super::hide::{hide_secrets, unknown_words};
use super::mistake::{Mistake, Mistakes, Sources, Span};
use super::model::PluginFile;
use super::places::Places;
use super::read::{At, Gathered, Read};
use super::unit::AnyPath;
use super::yaml::{self, Content, Node};
use super::{Loaded, Refused, Surroundings, check};

/// Files that patterns in `include` may name in all; more is a pattern that caught a foreign directory.
const MAX_FILES: usize = 10_000;

/// Reads a file that holds a configuration.
pub(super) fn read_text(path: &Path) -> Result<Zeroizing<String>, Mistakes> {
    let unreadable = |error: std::io::Error| {
        Mistakes::one(Mistake::without_text(
            path.display().to_string(),
            format!("cannot be read: {error}"),
            Some("name a readable YAML file".to_owned()),
        ))
    };
    let size = std::fs::metadata(path).map_err(unreadable)?.len();
    if size > yaml::MAX_FILE_BYTES as u64 {
        return Err(Mistakes::one(too_long(&path.display().to_string())));
    }
    let bytes = Zeroizing::new(std::fs::read(path).map_err(unreadable)?);
    text_of(&bytes, &path.display().to_string())
}

fn too_long(name: &str) -> Mistake {
    Mistake::without_text(
        name,
        format!("longer than {} MiB", yaml::MAX_FILE_BYTES >> 20),
        Some("split it with `include`".to_owned()),
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

/// What one file gave.
struct Parsed {
    name: String,
    text: Zeroizing<String>,
    /// None when the text is no YAML: nothing is known of it, so nothing of it is shown but known words.
    tree: Option<Arc<Node>>,
}

/// All files while they are read.
pub(super) struct Reading {
    parsed: Vec<Parsed>,
    directories: Vec<PathBuf>,
    files: Vec<PathBuf>,
    gathered: Gathered,
    /// Mistakes that have no place in a text.
    bare: Vec<Mistake>,
}

impl Reading {
    pub(super) fn new() -> Self {
        Self {
            parsed: Vec::new(),
            directories: Vec::new(),
            files: Vec::new(),
            gathered: Gathered::default(),
            bare: Vec::new(),
        }
    }

    /// Reads the configuration whose first file is this text.
    pub(super) fn read(
        mut self,
        text: Zeroizing<String>,
        name: &str,
        surroundings: &Surroundings,
    ) -> Result<Loaded, Box<Refused>> {
        let Some(mut file) = self.record::<File>(text, name, &surroundings.base_dir) else {
            return Err(self.refused(BTreeMap::new()));
        };
        let mut jobs: Vec<At<Job>> = file.jobs.take().map(|jobs| jobs.value).unwrap_or_default();
        let mut outputs: Vec<At<SharedOutput>> = file
            .outputs
            .take()
            .map(|outputs| outputs.value)
            .unwrap_or_default();
        for path in self.included(&file) {
            let text = match read_text(&path) {
                Ok(text) => text,
                Err(mistakes) => {
                    self.bare.extend(mistakes.iter().cloned());
                    continue;
                }
            };
            let directory = path.parent().map(Path::to_path_buf).unwrap_or_default();
            let name = path.display().to_string();
            self.files.push(path);
            if let Some(included) = self.record::<Included>(text, &name, &directory) {
                jobs.extend(included.jobs.into_iter().flat_map(|jobs| jobs.value));
                outputs.extend(
                    included
                        .outputs
                        .into_iter()
                        .flat_map(|outputs| outputs.value),
                );
            }
        }
        self.no_jobs(&file);
        let document = Document {
            file,
            jobs,
            outputs,
            job_names: self.job_names(),
            directories: self.directories.clone(),
            in_cluster: surroundings.in_cluster,
        };
        let config = check::check(&document, &mut self.gathered);
        if !self.gathered.notes.is_empty() || !self.bare.is_empty() {
            return Err(self.refused(config.plugins));
        }
        let (sources, trees) = self.into_sources();
        Ok(Loaded {
            config,
            places: Places::new(sources.0, trees),
            files: sources.1,
        })
    }

    fn record<R: Read>(
        &mut self,
        text: Zeroizing<String>,
        name: &str,
        directory: &Path,
    ) -> Option<R> {
        let tree = self.tree(text, name, directory)?;
        hide_secrets(&tree, &mut self.gathered);
        R::read(&tree, &mut self.gathered)
    }

    /// The tree of a text; mistakes of form are gathered.
    fn tree(&mut self, text: Zeroizing<String>, name: &str, directory: &Path) -> Option<Arc<Node>> {
        let source = u32::try_from(self.parsed.len()).unwrap_or(u32::MAX);
        let start = Span {
            source,
            start: 0,
            end: 0,
        };
        let mut tree = None;
        if text.len() > yaml::MAX_FILE_BYTES {
            self.bare.push(too_long(name));
        } else if let Some(at) = text.find('\0') {
            let at = u32::try_from(at).unwrap_or(u32::MAX);
            self.gathered.note(
                Span {
                    source,
                    start: at,
                    end: at,
                },
                "a NUL character",
                "this is not a text file; save it as UTF-8",
            );
        } else {
            let parsed = yaml::parse(&text, source);
            if parsed.tree.is_none() && parsed.notes.is_empty() {
                self.gathered
                    .note(start, "the file is empty", "write at least `jobs: […]`");
            }
            self.gathered.notes.extend(parsed.notes);
            parsed
                .orphans
                .iter()
                .for_each(|orphan| self.gathered.hide(orphan));
            tree = parsed.tree;
        }
        self.parsed.push(Parsed {
            name: name.to_owned(),
            text,
            tree: tree.clone(),
        });
        self.directories.push(directory.to_path_buf());
        tree
    }

    /// The files that `include` names, in the order of the patterns and then of their names.
    fn included(&mut self, file: &File) -> Vec<PathBuf> {
        let Some(patterns) = &file.include else {
            return Vec::new();
        };
        let mut paths = Vec::new();
        for pattern in &patterns.value {
            let found = self.matching(pattern);
            paths.extend(
                found
                    .into_iter()
                    .filter(|path| !paths.contains(path))
                    .collect::<Vec<_>>(),
            );
        }
        if paths.len() > MAX_FILES {
            self.gathered.note(
                patterns.span,
                format!(
                    "`include` names {} files, more than {MAX_FILES}",
                    paths.len()
                ),
                "name a directory that holds nothing else",
            );
            paths.clear();
        }
        paths
    }

    fn matching(&mut self, pattern: &At<AnyPath>) -> Vec<PathBuf> {
        let text = pattern.value.0.to_string_lossy();
        let directory = self.directories.first().cloned().unwrap_or_default();
        if !text.contains(['*', '?', '[']) {
            return vec![directory.join(&pattern.value.0)];
        }
        // The directory's own name may have characters that mean something in a pattern.
        let whole = Path::new(&glob::Pattern::escape(&directory.to_string_lossy())).join(&*text);
        match glob::glob(&whole.to_string_lossy()) {
            Ok(paths) => paths
                .filter_map(Result::ok)
                .filter(|path| path.is_file())
                .collect(),
            Err(error) => {
                self.gathered.note(
                    pattern.span,
                    format!("`{text}` is not a pattern: {}", error.msg),
                    "write it like `jobs.d/*.yaml`",
                );
                Vec::new()
            }
        }
    }

    fn no_jobs(&mut self, file: &File) {
        let Some(root) = self.parsed.first().and_then(|parsed| parsed.tree.as_ref()) else {
            return;
        };
        if file.include.is_none() && !has_key(root, "jobs") && !has_key(root, "include") {
            let span = root.span;
            self.gathered.note(
                span,
                "the key `jobs` is missing",
                "add `jobs: […]`, or name further files in `include`",
            );
        }
    }

    /// Every name that a job has, also where the job has mistakes.
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

    /// The sources with everything hidden painted over, and the trees.
    fn into_sources(self) -> ((Sources, Vec<PathBuf>), Vec<Arc<Node>>) {
        let mut sources = Sources::default();
        let mut trees = Vec::new();
        for parsed in self.parsed {
            let hidden = match parsed.tree {
                Some(tree) => {
                    trees.push(tree);
                    self.gathered.hidden_in(sources.next_id())
                }
                None => unknown_words(&parsed.text, &KNOWN_WORDS),
            };
            sources.add(&parsed.name, &parsed.text, &hidden);
        }
        ((sources, self.files), trees)
    }

    fn refused(mut self, plugins: BTreeMap<String, PluginFile>) -> Box<Refused> {
        let notes = std::mem::take(&mut self.gathered.notes);
        let mut mistakes = std::mem::take(&mut self.bare);
        let ((sources, _), trees) = self.into_sources();
        if let Some(noted) = Mistakes::of_notes(notes, &sources) {
            mistakes.extend(noted.iter().cloned());
        }
        let mistakes = Mistakes::of(mistakes).unwrap_or_else(|| {
            // Unreachable by construction: whoever gives up has noted why.
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
        })
    }
}

/// All keys of the file format: what may be shown of a text that is no YAML.
static KNOWN_WORDS: LazyLock<Vec<String>> = LazyLock::new(|| {
    fn gather(schema: &Value, words: &mut Vec<String>) {
        match schema {
            Value::Object(object) => {
                if let Some(Value::Object(properties)) = object.get("properties") {
                    words.extend(properties.keys().cloned());
                }
                object.values().for_each(|value| gather(value, words));
            }
            Value::Array(items) => items.iter().for_each(|item| gather(item, words)),
            _ => {}
        }
    }
    let mut words = Vec::new();
    gather(&super::schema(), &mut words);
    words
});

pub(super) fn get<'n>(node: &'n Node, key: &str) -> Option<&'n Arc<Node>> {
    let Content::Map(entries) = &node.content else {
        return None;
    };
    let (_, value) = entries.iter().find(|(known, _)| known.text == key)?;
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
