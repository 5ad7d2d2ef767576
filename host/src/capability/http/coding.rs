//! Content codings (RFC 9110 §8.4.1). Requests ask for none, but some servers use one anyway.

use std::io::Read;

use brotli_decompressor::Decompressor;
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

/// Nested codings: a server's and a gateway's.
const MAX_LAYERS: usize = 3;

const BUFFER: usize = 4096;

/// The largest window of a zstd decoder, which it keeps in memory. Servers must not need more (RFC 9659).
const MAX_WINDOW: u64 = 8 << 20;

/// A decoded content.
pub(super) struct Decoded {
    pub(super) bytes: Vec<u8>,
    /// Whether there were any.
    pub(super) was_coded: bool,
    /// Whether nothing is missing: a coded content may be cut or damaged, or exceed the limit.
    pub(super) is_whole: bool,
    /// Whether an unknown coding may be left: the headers name one and none was removed, or the result is not text.
    pub(super) is_coded: bool,
}

/// Decodes a content: codings that its first bytes show, whatever the headers say, and those that only the headers name. `said`
/// is `Content-Encoding`. At most `limit` bytes are decoded.
pub(super) fn decoded(content: &[u8], said: &str, limit: usize) -> Decoded {
    let (mut bytes, mut was_coded, mut is_whole) = (content.to_vec(), false, true);
    for _ in 0..MAX_LAYERS {
        let Some((inside, is_all)) = layer(&bytes, said, was_coded, limit) else {
            break;
        };
        bytes = inside;
        was_coded = true;
        is_whole &= is_all;
    }
    let names_one = !matches!(said.trim(), "" | "identity") && !bytes.trim_ascii().is_empty();
    Decoded {
        is_coded: names_one && !was_coded || std::str::from_utf8(&bytes).is_err(),
        bytes,
        was_coded,
        is_whole,
    }
}

fn layer(content: &[u8], said: &str, is_inner: bool, limit: usize) -> Option<(Vec<u8>, bool)> {
    let says = |coding: &str| !is_inner && said.to_ascii_lowercase().contains(coding);
    match content {
        [0x1f, 0x8b, ..] => Some(read(MultiGzDecoder::new(content), limit)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            Some(zstd(content, limit))
        }
        _ if is_plain(content) => None,
        // The usual levels of zlib: no text begins with these bytes.
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

/// A server may name a coding that it has not applied.
fn is_plain(content: &[u8]) -> bool {
    matches!(
        content.trim_ascii_start().first(),
        None | Some(b'{' | b'[' | b'<' | 0xef)
    ) && std::str::from_utf8(content).is_ok()
}

/// The decoded bytes, and whether they are complete.
fn read(decoder: impl Read, limit: usize) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    let is_whole = decoder.take(most).read_to_end(&mut bytes).is_ok() && bytes.len() <= limit;
    bytes.truncate(limit);
    (bytes, is_whole)
}

/// The same for zstd's frames in sequence, some of which may be skippable (RFC 8878 §3.1).
fn zstd(content: &[u8], limit: usize) -> (Vec<u8>, bool) {
    let (mut rest, mut bytes) = (content, Vec::new());
    let mut decoder = FrameDecoder::new();
    decoder.set_max_window_size(MAX_WINDOW);
    while !rest.is_empty() {
        match StreamingDecoder::new_with_decoder(&mut rest, &mut decoder) {
            Ok(frame) => {
                let (inside, is_all) = read(frame, limit.saturating_sub(bytes.len()));
                bytes.extend(inside);
                if !is_all {
                    return (bytes, false);
                }
            }
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                length,
                ..
            })) => {
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                match rest.get(length..) {
                    Some(next) => rest = next,
                    None => return (bytes, false),
                }
            }
            Err(_) => return (bytes, false),
        }
    }
    (bytes, true)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    const TEXT: &[u8] = br#"{"access_token":"a","refresh_token":"r"}"#;
    const LIMIT: usize = 1000;

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(content: &[u8]) -> Vec<u8> {
        compress_to_vec(content, CompressionLevel::Fastest)
    }

    #[test]
    fn every_coding_is_taken_off_whoever_says_what() {
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
        zlib.write_all(TEXT).unwrap();
        let mut deflate = DeflateEncoder::new(Vec::new(), Compression::default());
        deflate.write_all(TEXT).unwrap();
        // As written by `brotliCompressSync` of Node: one block, not compressed.
        let brotli = [&[0x8b, 0x13, 0x80][..], TEXT, &[0x03]].concat();
        let zlib = zlib.finish().unwrap();
        // As written by `zstd -19`, with a checksum at the end.
        let with_sum = b"\x28\xb5\x2f\xfd\x04\x68\x2d\x01\x00\xf8{\"access_token\":\"a\",\"refreshr\"}\x01\x00\x5c\x31\x9d\x00\x72\x7d\x1a".to_vec();
        let padding = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc";
        let frames = [padding, &zstd(&TEXT[..9])[..], &zstd(&TEXT[9..])].concat();
        for (content, said) in [
            (zlib.clone(), ""),
            (with_sum, "zstd"),
            (frames, "zstd"),
            (zstd(TEXT), ""),
            (gzip(&zstd(TEXT)), "zstd, gzip"),
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
    fn a_coding_that_is_not_known_is_not_taken_for_text() {
        for (content, said, is_coded) in [
            (TEXT.to_vec(), "", false),
            (TEXT.to_vec(), "identity", false),
            (gzip(TEXT), "", false),
            (b"opaque".to_vec(), "", false),
            (Vec::new(), "x-new", false),
            (b"opaque".to_vec(), "x-new", true),
            (b"\x5d\x00\x00\x80\xff\xfe".to_vec(), "", true),
            (gzip(b"\x5d\x00\x00\x80\xff\xfe"), "x-new, gzip", true),
        ] {
            let decoded = decoded(&content, said, LIMIT);
            assert_eq!(decoded.is_coded, is_coded, "{content:?} {said}");
        }
    }

    #[test]
    fn of_a_content_that_is_cut_there_is_what_came() {
        for content in [gzip(&TEXT.repeat(20)), zstd(&TEXT.repeat(20))] {
            for end in 4..content.len() {
                let decoded = decoded(&content[..end], "", LIMIT);
                assert!(
                    !decoded.is_whole && TEXT.repeat(20).starts_with(&decoded.bytes),
                    "{end}"
                );
            }
        }
    }

    #[test]
    fn a_bomb_ends_at_the_limit() {
        // Sixty-four blocks, each of which repeats one byte for 128 KiB.
        let mut block_after_block = b"\x28\xb5\x2f\xfd\x00\x68".to_vec();
        for n in 0..64 {
            let header: u32 = u32::from(n == 63) | 1 << 1 | (128 << 10) << 3;
            block_after_block.extend(&header.to_le_bytes()[..3]);
            block_after_block.push(b' ');
        }
        // A window of 2 GiB.
        let wide_window = b"\x28\xb5\x2f\xfd\x00\xa8\x01\x00\x00".to_vec();
        for bomb in [
            gzip(&gzip(&vec![b' '; 20_000_000])),
            zstd(&vec![b' '; 2_000_000]),
            block_after_block,
            wide_window,
        ] {
            let decoded = decoded(&bomb, "", LIMIT);
            assert!(!decoded.is_whole && decoded.bytes.len() <= LIMIT);
        }
    }
}
