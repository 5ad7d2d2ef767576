//! The plugins that are part of the binary, as `build.rs` found them.

use super::inspect::Digest;

/// A plugin that is part of the binary.
#[derive(Debug)]
pub struct BuiltIn {
    /// The name that jobs use.
    pub name: &'static str,
    /// The component.
    pub bytes: &'static [u8],
    /// SHA-256 of its bytes.
    pub digest: Digest,
}

/// All built-in plugins, by name.
pub const BUILT_IN: &[BuiltIn] = include!(concat!(env!("OUT_DIR"), "/built_in.rs"));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::inspect::{PluginWorld, inspect};

    #[test]
    fn the_built_in_plugins_are_what_their_digests_say_and_pass_their_own_audit() {
        for plugin in BUILT_IN {
            let info = inspect(plugin.bytes).unwrap();
            assert_eq!(info.digest, plugin.digest, "{}", plugin.name);
            let world = if plugin.name == "template" {
                PluginWorld::Formatter
            } else {
                PluginWorld::Source
            };
            assert_eq!(info.world, world, "{}", plugin.name);
            assert!(info.schema.is_some(), "{} embeds no schema", plugin.name);
            assert!(
                info.about.is_some(),
                "{} does not say what it is",
                plugin.name
            );
        }
    }
}
