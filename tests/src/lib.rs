//! Real parts for tests: an API server, Keycloak, an issuer that misbehaves on demand, and the built `evertoken` itself.
//! Only the simulator depends on the host crate, so without that feature this library compiles in seconds and sees evertoken only
//! from outside, as a user does. Parts that need Go or a JDK are built once into the target folder; where those are missing the
//! error says so, unless the part is switched off by name: `EVERTOKEN_SKIP=kubernetes,keycloak`. Every process started here ends
//! with the test process, however that ends.

pub mod client;
pub mod disk;
pub mod evertoken;
pub mod guests;
pub mod issuer;
pub mod jwt;
pub mod keycloak;
pub mod kubernetes;
pub mod pki;
pub mod plugins;
pub mod process;
pub mod proxy;
pub mod reader;
pub mod server;
#[cfg(feature = "simulator")]
pub mod simulator;
pub mod switch;
mod toolchain;
pub mod tunnel;
pub mod workdir;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often a condition is checked while waiting for it: short compared to anything that is awaited, rare enough for two busy
/// cores.
const POLL: Duration = Duration::from_millis(20);

/// Asks `probe` until it gives a value.
///
/// # Errors
///
/// When `timeout` passes first; the message names `what` was waited for.
pub fn wait_until<T>(
    what: &str,
    timeout: Duration,
    mut probe: impl FnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = probe() {
            return Ok(value);
        }
        if start.elapsed() > timeout {
            anyhow::bail!("waited {timeout:?} in vain for {what}");
        }
        std::thread::sleep(POLL);
    }
}

/// A test that panics while it holds a lock has failed already; the others still need the value.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
