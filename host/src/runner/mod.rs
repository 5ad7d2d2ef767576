//! Carries out what [`crate::refresh`] decides: due queue, concurrency, shutdown.
