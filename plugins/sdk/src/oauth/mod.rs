//! The answers of OAuth 2.0 token endpoints, by RFC 6749 and by real issuers. [`Answer`] parses one, [`failure`] classifies a
//! refusal.

mod answer;
mod error;

pub use answer::Answer;
pub use error::failure;

use evertoken_answer::{Content, Members};

use crate::http::Response;

/// The members of an answer: of a JSON object or of a form. Nothing when the body is neither.
fn members(response: &Response) -> Option<Members> {
    match evertoken_answer::read_wrapped(response.header("content-type"), &response.body) {
        Content::Members(members) | Content::Form(members) => Some(members),
        Content::Empty | Content::Html | Content::Json(_) | Content::Other => None,
    }
}
