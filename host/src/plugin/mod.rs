//! All that touches wasmtime.
