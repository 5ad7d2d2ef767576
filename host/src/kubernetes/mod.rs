//! Kubernetes client set-up.
