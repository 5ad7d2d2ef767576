//! Texts in the options of built-in sources that an issuer may well get as they stand, and that hardly anybody means.

use serde_json::Value;

use crate::config::{Mistake, Mistakes, Places, PluginUse, SOURCE_PLUGINS};
use crate::text;

/// A warning for each, with its place.
pub(super) fn warnings(places: &Places) -> Vec<Mistake> {
    let of_built_in = places
        .plugin_options()
        .filter(|said| said.wanted == PluginUse::Source && SOURCE_PLUGINS.contains(&said.plugin));
    let warnings = of_built_in.flat_map(|said| {
        let mut found = Vec::new();
        gather(&said.config, String::new(), &mut found);
        let tell = move |(pointer, why): (String, &str)| {
            places.mistake(said.place.pointer(&pointer), why, None)
        };
        found.into_iter().map(tell)
    });
    warnings.take(Mistakes::ENOUGH).collect()
}

/// The JSON pointers of suspicious texts, and why they are.
fn gather(value: &Value, pointer: String, found: &mut Vec<(String, &'static str)>) {
    match value {
        Value::String(text) => found.extend(text::suspicion(text).map(|why| (pointer, why))),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                gather(item, format!("{pointer}/{index}"), found);
            }
        }
        Value::Object(members) => {
            for (name, member) in members {
                let name = name.replace('~', "~0").replace('/', "~1");
                gather(member, format!("{pointer}/{name}"), found);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_text_is_looked_at_and_its_place_is_told() {
        let config = json!({
            "client_id": "'svc'",
            "scope": ["read", " write"],
            "params": {"a/b": "$NAME", "n": 1},
            "audience": "https://api.example.org",
        });
        let mut found = Vec::new();
        gather(&config, String::new(), &mut found);
        let mut places: Vec<&str> = found.iter().map(|(place, _)| place.as_str()).collect();
        places.sort_unstable();
        assert_eq!(places, ["/client_id", "/params/a~1b", "/scope/1"]);
    }
}
