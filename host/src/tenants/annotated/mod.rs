//! Annotated Secrets whose token is kept fresh, as CERN's oauth2-refresh-controller did: what one asks for ([`secret`]), the controller that
//! serves them ([`controller`]), and what it tells of each.

pub mod controller;
mod report;
pub mod secret;
