//! What a user does, from outside: the built binary, a configuration file, real issuers, a real API server.
#![cfg(test)]

mod annotated;
mod attended;
mod bad_config;
mod check;
mod cluster_secrets;
mod cluster_state;
mod compiling;
mod crashes;
mod demo;
mod deploy;
mod examples;
mod freshness;
mod guests;
mod hostile;
mod image;
mod ktr;
mod leak;
mod odd_answers;
mod one_mint;
mod paths;
mod proxies;
mod reload;
mod rotating;
mod scene;
mod serve;
mod shared_outputs;
mod state;
mod trouble_cluster;
mod trouble_issuer;
mod trouble_machine;
mod trouble_output;
