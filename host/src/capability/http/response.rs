//! An answer as a plugin receives it.

use std::fmt;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::model::time::Timestamp;

/// An answer, read to its end.
#[derive(Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code; redirects are not followed.
    pub status: u16,
    /// Names in lower case; repeated ones apart.
    pub headers: Vec<(String, String)>,
    /// The content.
    pub body: Vec<u8>,
    /// The moment before the request was sent: `expires_in` counts from here.
    pub sent_at: Timestamp,
}

impl Response {
    /// Bytes of its headers and its content.
    pub(in crate::capability) fn size(&self) -> usize {
        let headers = self.headers.iter();
        let in_headers: usize = headers.map(|(name, value)| name.len() + value.len()).sum();
        in_headers + self.body.len()
    }

    /// The time by the other side's clock, from its `Date` header (RFC 9110 §6.6.1).
    #[must_use]
    pub fn date(&self) -> Option<Timestamp> {
        let (_, date) = self.headers.iter().find(|(name, _)| name == "date")?;
        read_date(date)
    }
}

/// An HTTP date (RFC 9110 §5.6.7).
pub(crate) fn read_date(text: &str) -> Option<Timestamp> {
    let date = DateTime::strptime("%a, %d %b %Y %H:%M:%S GMT", text).ok()?;
    let date = date.to_zoned(TimeZone::UTC).ok()?.timestamp();
    Some(Timestamp(u64::try_from(date.as_millisecond()).ok()?))
}

/// Neither headers nor body are shown: they contain tokens.
impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("status", &self.status)
            .field("bytes", &self.body.len())
            .field("sent_at", &self.sent_at)
            .finish_non_exhaustive()
    }
}
