//! What a plugin may ask for, without a word of wasmtime: requests within egress rules, secrets as handles, keyed operations,
//! a small cache, log and clock. `plugin/v0_1.rs` maps the generated interface onto these.

pub mod keep;
