//! What the export macros expand to; not part of this crate's interface.

#[cfg(target_family = "wasm")]
pub use crate::bindings::formatter::exports::evertoken::plugin::formatter;
#[cfg(target_family = "wasm")]
pub use crate::bindings::source::exports::evertoken::plugin::source;
#[cfg(target_family = "wasm")]
pub use crate::wasm::{acquire, format};

/// A text as the array that a custom section is made of.
#[must_use]
pub const fn bytes<const N: usize>(text: &str) -> [u8; N] {
    match text.as_bytes().first_chunk::<N>() {
        Some(bytes) => *bytes,
        None => [b' '; N],
    }
}
