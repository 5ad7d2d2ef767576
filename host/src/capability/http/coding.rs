//! Content codings (RFC 9110 §8.4.1). None is asked for; some servers know better.

use std::io::Read;

use brotli_decompressor::Decompressor;
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};

/// Codings around each other: a server's and a gateway's.
const MAX_LAYERS: usize = 3;

const BUFFER: usize = 4096;

/// A content without its codings.
pub(super) struct Decoded {
    pub(super) bytes: Vec<u8>,
    /// Whether there were any.
    pub(super) was_coded: bool,
    /// Whether nothing is missing: a coded content may be cut or damaged, or exceed the limit.
    pub(super) is_whole: bool,
}

/// Takes codings off a content: those that it shows by its first bytes, whatever the headers say, and those that only they say.
/// `said` is `Content-Encoding`. No more than `limit` bytes come out.
pub(super) fn decoded(content: &[u8], said: &str, limit: usize) -> Decoded {
    let mut result = Decoded {
        bytes: content.to_vec(),
        was_coded: false,
        is_whole: true,
    };
    for _ in 0..MAX_LAYERS {
        let Some((bytes, is_whole)) = layer(&result.bytes, said, result.was_coded, limit) else {
            break;
        };
        result = Decoded {
            bytes,
            was_coded: true,
            is_whole: result.is_whole && is_whole,
        };
    }
    result
}

fn layer(content: &[u8], said: &str, is_inner: bool, limit: usize) -> Option<(Vec<u8>, bool)> {
    let says = |coding: &str| !is_inner && said.to_ascii_lowercase().contains(coding);
    match content {
        [0x1f, 0x8b, ..] => Some(read(MultiGzDecoder::new(content), limit)),
        _ if is_plain(content) => None,
        // The usual levels of zlib: no text begins so.
        [0x78, 0x9c | 0xda, ..] => Some(read(ZlibDecoder::new(content), limit)),
        _ if says("deflate") => {
            let zlib = read(ZlibDecoder::new(content), limit);
            Some(if zlib.0.is_empty() {
                read(DeflateDecoder::new(content), limit)
            } else {
                zlib
            })
        }
        _ if says("br") => Some(read(Decompressor::new(content, BUFFER), limit)),
        _ => None,
    }
}

/// A server may say that it has coded what it has not.
fn is_plain(content: &[u8]) -> bool {
    matches!(
        content.trim_ascii_start().first(),
        None | Some(b'{' | b'[' | b'<' | 0xef)
    ) && std::str::from_utf8(content).is_ok()
}

/// What can be decoded, and whether that is all.
fn read(decoder: impl Read, limit: usize) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    let is_whole = decoder.take(most).read_to_end(&mut bytes).is_ok() && bytes.len() <= limit;
    bytes.truncate(limit);
    (bytes, is_whole)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

    use super::*;

    const TEXT: &[u8] = br#"{"access_token":"a","refresh_token":"r"}"#;
    const LIMIT: usize = 1000;

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn every_coding_is_taken_off_whoever_says_what() {
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
        zlib.write_all(TEXT).unwrap();
        let mut deflate = DeflateEncoder::new(Vec::new(), Compression::default());
        deflate.write_all(TEXT).unwrap();
        // As `brotliCompressSync` of Node writes it: one block, not compressed.
        let brotli = [&[0x8b, 0x13, 0x80][..], TEXT, &[0x03]].concat();
        let zlib = zlib.finish().unwrap();
        for (content, said) in [
            (zlib.clone(), ""),
            (gzip(TEXT), "gzip"),
            (gzip(TEXT), ""),
            (gzip(TEXT), "identity"),
            (gzip(&gzip(TEXT)), "gzip, gzip"),
            (TEXT.to_vec(), "gzip"),
            (TEXT.to_vec(), "br"),
            (TEXT.to_vec(), ""),
            (zlib, "deflate"),
            (deflate.finish().unwrap(), "Deflate"),
            (brotli, "br"),
        ] {
            let decoded = decoded(&content, said, LIMIT);
            assert_eq!(
                String::from_utf8_lossy(&decoded.bytes),
                String::from_utf8_lossy(TEXT),
                "{said}"
            );
            assert!(decoded.is_whole, "{said}");
            assert_eq!(decoded.was_coded, content != TEXT, "{said}");
        }
    }

    #[test]
    fn of_a_content_that_is_cut_there_is_what_came() {
        let content = gzip(&TEXT.repeat(20));
        for end in 2..content.len() {
            let decoded = decoded(&content[..end], "gzip", LIMIT);
            assert!(
                !decoded.is_whole && TEXT.repeat(20).starts_with(&decoded.bytes),
                "{end}"
            );
        }
    }

    #[test]
    fn a_bomb_ends_at_the_limit() {
        let bomb = gzip(&gzip(&vec![b' '; 20_000_000]));
        let decoded = decoded(&bomb, "gzip", LIMIT);
        assert!(!decoded.is_whole && decoded.bytes.len() <= LIMIT);
    }
}
