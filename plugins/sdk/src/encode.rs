//! The one encoding that plugins need of values which they may see.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Base64 with padding (RFC 4648 §4).
#[must_use]
pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}
