//! Jobs that tenants ask for: an administrator's profile says what they may have ([`request`]), and their values can steer nothing
//! ([`template`]).

pub mod annotated;
pub mod request;
pub mod template;
