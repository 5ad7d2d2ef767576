//! What a user does, from outside: the built binary, a configuration file, real issuers, a real API server.
#![cfg(test)]

mod bad_config;
mod demo;
mod examples;
mod guests;
mod ktr;
mod leak;
mod one_mint;
mod scene;
mod serve;
mod trouble_issuer;
mod trouble_machine;
mod trouble_output;
