//! Sinks: file and Kubernetes Secret.
