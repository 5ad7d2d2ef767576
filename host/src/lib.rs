//! Keeps short-lived tokens fresh where unmodified programs read them.
