//! The documentation says what is: every key of the configuration and of the plugins is named and no other, links lead to files,
//! metrics exist, and so do the tests that promises are held to.
#![cfg(test)]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Folders that hold what others wrote or what was built.
const NOT_OURS: [&str; 2] = ["target", ".git"];

/// A section of config/README.md and the records of the schema that its table is about.
const SECTIONS: [(&str, &[&str]); 5] = [
    ("## Keys", &["File"]),
    ("### A job", &["Job"]),
    ("### Profiles", &["Profile"]),
    ("### A secret", &["Secret"]),
    ("### An output", &["Output", "SharedOutput"]),
];

/// What prometheus-client appends to a metric's registered name.
const SUFFIXES: [&str; 6] = ["", "_total", "_info", "_bucket", "_count", "_sum"];

#[test]
fn the_configurations_page_names_every_key_and_no_other() {
    let schema = json("config/evertoken.schema.json");
    let page = text("config/README.md");
    let mut named = BTreeSet::new();
    let mut complaints = Vec::new();
    for (heading, records) in SECTIONS {
        let keys = keys_of_tables(section(&page, heading));
        assert!(!keys.is_empty(), "`{heading}` has no table of keys");
        for key in keys {
            let before = named.len();
            let found = records
                .iter()
                .filter(|record| resolve(&schema, record, &key, &mut named))
                .count();
            if found == 0 {
                complaints.push(format!("`{heading}` names `{key}`, which is no key"));
            } else if named.len() == before {
                complaints.push(format!("`{heading}` names `{key}` twice"));
            }
        }
    }
    for (record, definition) in schema["$defs"].as_object().unwrap() {
        for key in definition["properties"].as_object().unwrap().keys() {
            if !named.contains(&(record.clone(), key.clone())) {
                complaints.push(format!("`{key}` of {record} is named nowhere"));
            }
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn each_plugins_page_names_every_option_and_no_other() {
    for plugin in ["dummy", "mirror", "oauth2", "template"] {
        let schema = json(&format!("plugins/{plugin}/schema.json"));
        let options: BTreeSet<String> = schema["properties"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect();
        let named: BTreeSet<String> = keys_of_tables(&text(&format!("plugins/{plugin}/README.md")))
            .into_iter()
            .collect();
        assert_eq!(named, options, "plugins/{plugin}/README.md");
    }
}

#[test]
fn every_link_leads_to_a_file() {
    let mut links = 0;
    for page in pages() {
        let folder = page.parent().unwrap();
        let content = fs::read_to_string(&page).unwrap();
        for target in link_targets(&content) {
            let path = target.split('#').next().unwrap_or_default();
            if target.contains("://") || path.is_empty() {
                continue;
            }
            links += 1;
            assert!(
                folder.join(path).exists(),
                "{} links to {target}, which is not there",
                page.display()
            );
        }
    }
    assert!(links > 10, "only {links} links were found");
}

#[test]
fn every_test_that_a_table_names_exists() {
    let mut sources = Vec::new();
    for folder in ["host", "tests", "plugins"] {
        collect(&root().join(folder), "rs", &mut sources);
    }
    let code: String = sources
        .iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let mut rows = 0;
    for page in pages() {
        for cell in last_cells_of_tables(&fs::read_to_string(&page).unwrap(), "test") {
            let named: Vec<_> = cell.split('`').skip(1).step_by(2).collect();
            assert!(!named.is_empty(), "{}: `{cell}`", page.display());
            rows += 1;
            for name in named {
                let function = match name.strip_suffix('…') {
                    Some(beginning) => format!("fn {beginning}"),
                    None => format!("fn {name}("),
                };
                assert!(
                    code.contains(&function),
                    "{} names the test {name}, which is not there",
                    page.display()
                );
            }
        }
    }
    assert!(rows > 40, "only {rows} promises name a test");
}

#[test]
fn every_metric_that_is_named_exists() {
    let mut sources = Vec::new();
    collect(&root().join("host/src"), "rs", &mut sources);
    let code: String = sources
        .iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let mut named = BTreeSet::new();
    for page in pages() {
        named.extend(metrics(&fs::read_to_string(page).unwrap()));
    }
    assert!(
        named.contains("job_expiration_timestamp_seconds"),
        "{named:?}"
    );
    for name in named {
        let is_registered = SUFFIXES.iter().any(|suffix| {
            name.strip_suffix(suffix)
                .is_some_and(|name| code.contains(&format!("\"{name}\"")))
        });
        assert!(
            is_registered,
            "evertoken_{name} is named, and there is no such metric"
        );
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

fn json(path: &str) -> Value {
    serde_json::from_str(&text(path)).unwrap()
}

fn pages() -> Vec<PathBuf> {
    let mut pages = Vec::new();
    collect(root(), "md", &mut pages);
    pages
}

/// Files with this ending in a folder and those in it.
fn collect(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let is_ours = !NOT_OURS
            .iter()
            .any(|name| path.file_name() == Some(OsStr::new(name)));
        if path.is_dir() && !path.is_symlink() && is_ours {
            collect(&path, ending, found);
        } else if path.extension() == Some(OsStr::new(ending)) {
            found.push(path);
        }
    }
}

/// From a heading to the next.
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let (_, rest) = page
        .split_once(&format!("\n{heading}\n"))
        .unwrap_or_else(|| panic!("there is no `{heading}`"));
    rest.split_once("\n#").map_or(rest, |(section, _)| section)
}

/// What stands in backticks in the first column of tables whose first column is called key.
fn keys_of_tables(page: &str) -> Vec<String> {
    let mut keys = Vec::new();
    let mut in_table = false;
    for line in page.lines() {
        let Some(row) = line.strip_prefix('|') else {
            in_table = false;
            continue;
        };
        let first = row.split('|').next().unwrap_or_default();
        if first.trim() == "key" {
            in_table = true;
        } else if in_table {
            keys.extend(first.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    keys
}

/// The last cells of tables whose last column is called `heading`.
fn last_cells_of_tables<'a>(page: &'a str, heading: &str) -> Vec<&'a str> {
    let mut cells = Vec::new();
    let mut in_table = false;
    for line in page.lines() {
        let Some(row) = line.strip_prefix('|').and_then(|row| row.strip_suffix('|')) else {
            in_table = false;
            continue;
        };
        let last = row.rsplit('|').next().unwrap_or_default().trim();
        if last == heading {
            in_table = true;
        } else if in_table && !last.starts_with("---") {
            cells.push(last);
        }
    }
    cells
}

/// Follows a dotted key from a record and notes each key on the way; false if there is none such. NAME stands for a name of the user's.
fn resolve(
    schema: &Value,
    record: &str,
    key: &str,
    named: &mut BTreeSet<(String, String)>,
) -> bool {
    let mut way = Vec::new();
    let mut record = Some(record.to_owned());
    let mut open = None;
    for part in key.split('.') {
        let property = if part == "NAME" {
            open.take()
        } else {
            let Some(of) = record.take() else {
                return false;
            };
            way.push((of.clone(), part.to_owned()));
            schema["$defs"][&of]["properties"].get(part)
        };
        let Some(property) = property else {
            return false;
        };
        record = record_of(property);
        open = property.get("additionalProperties");
    }
    named.extend(way);
    true
}

/// The record that a property holds, or a list of it, or one or a list.
fn record_of(property: &Value) -> Option<String> {
    if let Some(reference) = property["$ref"].as_str() {
        return reference.strip_prefix("#/$defs/").map(str::to_owned);
    }
    let alternatives = ["oneOf", "anyOf"]
        .into_iter()
        .filter_map(|keyword| property[keyword].as_array())
        .flatten();
    property
        .get("items")
        .into_iter()
        .chain(alternatives)
        .find_map(record_of)
}

fn link_targets(page: &str) -> impl Iterator<Item = &str> {
    page.split("](").skip(1).filter_map(|rest| {
        let (target, _) = rest.split_once(')')?;
        Some(target)
    })
}

/// Metrics' names after `evertoken_`; a crate's path is none.
fn metrics(page: &str) -> Vec<String> {
    page.split("evertoken_")
        .skip(1)
        .filter_map(|rest| {
            let end = rest
                .find(|c: char| !c.is_ascii_lowercase() && c != '_')
                .unwrap_or(rest.len());
            let (name, after) = rest.split_at(end);
            (!after.starts_with("::")).then(|| name.to_owned())
        })
        .collect()
}
