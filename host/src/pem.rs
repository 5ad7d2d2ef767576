//! PEM parsing (RFC 7468) of texts with several blocks: each block by itself, with its position. Messages name a block and its
//! fault, never its content, which may be a key.

use std::fmt;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, SectionKind};
use zeroize::Zeroizing;

const BEGIN: &str = "-----BEGIN ";
const DASHES: &str = "-----";

/// Longer than any existing label.
const LABEL_MAX_BYTES: usize = 64;

/// The kind and content of a block.
pub(crate) type PemSection = (SectionKind, Zeroizing<Vec<u8>>);

/// One block of a PEM text.
pub(crate) struct Block<'p> {
    number: usize,
    line: usize,
    pub(crate) label: &'p str,
    /// Up to the next block.
    pub(crate) text: &'p [u8],
}

/// E.g. `block 2 (CERTIFICATE, line 23)`.
impl fmt::Display for Block<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "block {} ({}, line {})",
            self.number, self.label, self.line
        )
    }
}

/// Why a block cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Damage {
    /// Line ends escaped as `\n`, as some programs write keys into variables.
    #[error(
        r"its line ends are written as `\n`, two characters; write line ends, e.g. with `printf %b`"
    )]
    EscapedLineEnds,
    /// Without line ends.
    #[error("it has no line ends; its BEGIN and END each need a line of their own")]
    NoLineEnds,
    /// The old encrypted format of OpenSSL.
    #[error("it is encrypted; store it decrypted, e.g. with `openssl pkey`")]
    Encrypted,
    #[error("its END line is missing")]
    NoEnd,
    #[error("what stands in it is not base64")]
    NotBase64,
    #[error("it is no PEM")]
    Other,
}

impl Block<'_> {
    /// Its kind and content; none: a kind that is not used here.
    pub(crate) fn parse(&self) -> Result<Option<PemSection>, Damage> {
        let mut text = self.text;
        match pem::from_buf(&mut text) {
            Ok(section) => Ok(section.map(|(kind, der)| (kind, Zeroizing::new(der)))),
            Err(error) => Err(self.damage(&error)),
        }
    }

    fn damage(&self, error: &pem::Error) -> Damage {
        let has = |part: &[u8]| memchr::memmem::find(self.text, part).is_some();
        let is_one_line = !self.text.trim_ascii().contains(&b'\n');
        match error {
            _ if has(br"\n") => Damage::EscapedLineEnds,
            _ if has(b"Proc-Type: 4,ENCRYPTED") => Damage::Encrypted,
            _ if is_one_line && has(b"-----END ") => Damage::NoLineEnds,
            pem::Error::MissingSectionEnd { .. } => Damage::NoEnd,
            pem::Error::Base64Decode(_) => Damage::NotBase64,
            _ => Damage::Other,
        }
    }
}

/// The blocks of a PEM text. A block begins at the beginning of a line, or directly after the end of another: files are joined
/// with `cat`, and not all end in a line end.
pub(crate) fn blocks(text: &[u8]) -> impl Iterator<Item = Block<'_>> {
    let begins: Vec<(usize, &str)> = memchr::memmem::find_iter(text, BEGIN)
        .filter_map(|at| Some((at, label_at(text, at)?)))
        .collect();
    let ends: Vec<usize> = begins
        .iter()
        .skip(1)
        .map(|(at, _)| *at)
        .chain([text.len()])
        .collect();
    let (mut line, mut counted) = (1, 0);
    begins
        .into_iter()
        .zip(ends)
        .enumerate()
        .map(move |(index, ((start, label), end))| {
            let before = text.get(counted..start).unwrap_or_default();
            line += memchr::memchr_iter(b'\n', before).count();
            counted = start;
            Block {
                number: index + 1,
                line,
                label,
                text: text.get(start..end).unwrap_or_default(),
            }
        })
}

/// The label of the block that begins there, if one does.
fn label_at(text: &[u8], at: usize) -> Option<&str> {
    let (before, from) = text.split_at_checked(at)?;
    let line = before.rsplit(|byte| *byte == b'\n').next()?;
    let before = line.trim_ascii();
    if !(before.is_empty() || before.ends_with(DASHES.as_bytes())) {
        return None;
    }
    let from = from.get(BEGIN.len()..)?;
    let from = from.get(..from.len().min(LABEL_MAX_BYTES + DASHES.len()))?;
    let length = memchr::memmem::find(from, DASHES.as_bytes())?;
    let label = std::str::from_utf8(from.get(..length)?).ok()?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == ' ';
    label.chars().all(is_plain).then_some(label)
}

/// The certificates in a text, each with its position; at least one.
///
/// # Errors
/// There is none, or a block cannot be read as one.
pub(crate) fn certificates(text: &[u8]) -> Result<Vec<(String, CertificateDer<'static>)>, String> {
    let mut found = Vec::new();
    for block in blocks(text) {
        if !block.label.ends_with("CERTIFICATE") {
            continue;
        }
        if block.label != "CERTIFICATE" {
            return Err(format!(
                "{block} cannot be used: only CERTIFICATE is read; convert it with `openssl x509`"
            ));
        }
        let content = block.parse();
        let content = content.map_err(|damage| format!("{block} is damaged: {damage}"))?;
        let der = content.map(|(_, der)| der.to_vec()).unwrap_or_default();
        found.push((block.to_string(), CertificateDer::from(der)));
    }
    if found.is_empty() {
        return Err(format!(
            "it holds no certificate; a PEM file with BEGIN CERTIFICATE is needed{}",
            holds(text)
        ));
    }
    Ok(found)
}

/// The same blocks, each on lines of its own, for parsers that require that.
pub(crate) fn separated(text: &[u8]) -> Zeroizing<Vec<u8>> {
    let count = blocks(text).count();
    // At its full capacity from the start: growing would leave copies behind.
    let mut separated = Zeroizing::new(Vec::with_capacity(text.len() + count));
    for block in blocks(text) {
        separated.extend_from_slice(block.text);
        separated.push(b'\n');
    }
    separated
}

/// What the text contains instead, e.g. `; it holds block 1 (PUBLIC KEY, line 1)`.
pub(crate) fn holds(text: &[u8]) -> String {
    let found: Vec<_> = blocks(text)
        .take(3)
        .map(|block| block.to_string())
        .collect();
    match found.is_empty() {
        true => String::new(),
        false => format!("; it holds {}", found.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(label: &str) -> String {
        format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----")
    }

    #[test]
    fn a_block_begins_on_a_line_of_its_own_or_right_behind_another() {
        let (a, b) = (block("CERTIFICATE"), block("PRIVATE KEY"));
        let one = "block 1 (CERTIFICATE, line 1)";
        for (text, expected) in [
            (
                format!("{a}\n{b}\n"),
                vec![one, "block 2 (PRIVATE KEY, line 4)"],
            ),
            (
                format!("{a}{b}"),
                vec![one, "block 2 (PRIVATE KEY, line 3)"],
            ),
            (
                format!("{a} {b}"),
                vec![one, "block 2 (PRIVATE KEY, line 3)"],
            ),
            (
                format!("{a}\r\n\r\n{b}"),
                vec![one, "block 2 (PRIVATE KEY, line 5)"],
            ),
            (
                format!("# first\n  {a}"),
                vec!["block 1 (CERTIFICATE, line 2)"],
            ),
            (format!("# as in {a}"), vec![]),
            ("-----BEGIN <s3cr3t>-----\n".to_owned(), vec![]),
            (format!("-----BEGIN {}-----", "S".repeat(65)), vec![]),
            (String::new(), vec![]),
        ] {
            let found: Vec<_> = blocks(text.as_bytes())
                .map(|block| block.to_string())
                .collect();
            assert_eq!(found, expected, "{text}");
            for block in blocks(text.as_bytes()) {
                let (_, content) = block.parse().unwrap().unwrap();
                assert_eq!(content[..], [0; 3], "{text}");
            }
        }
    }

    #[test]
    fn what_is_wrong_with_a_block_is_said() {
        for (text, expected) in [
            ("-----BEGIN CERTIFICATE-----\nAAAA\n", Damage::NoEnd),
            (
                "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n",
                Damage::NotBase64,
            ),
            (
                r"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
                Damage::EscapedLineEnds,
            ),
            (
                "-----BEGIN PRIVATE KEY----- AAAA -----END PRIVATE KEY-----\n",
                Damage::NoLineEnds,
            ),
            (
                "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES\n\nAAAA\n-----END RSA PRIVATE KEY-----\n",
                Damage::Encrypted,
            ),
        ] {
            let block = blocks(text.as_bytes()).next().unwrap();
            assert_eq!(block.parse().unwrap_err(), expected, "{text}");
        }
    }
}
