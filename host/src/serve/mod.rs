//! Probes, metrics and the control socket.
