//! Limits on plugins (calls, loading, compilation, schemas) that users cannot change; for the others see
//! [`defaults`](crate::model::defaults). They only protect the host from hostile plugins; no honest one comes near them.

use std::time::Duration;

/// How long a formatter may run. It only turns strings into bytes, which takes microseconds.
pub const FORMAT_TIME: Duration = Duration::from_secs(5);

/// Bytes that one host call may copy out of the plugin, beyond what artifacts may have: the host allocates them.
pub(super) const CALL_BYTES: usize = 4 << 20;

/// Live handles of a plugin, for resources of all kinds. A plugin holds one per secret and per piece joined from secrets.
pub(super) const HANDLES: usize = 1024;

/// Resources that the host holds for a plugin: the secrets that a call may make (256), and the streams of standard input and
/// output.
pub(super) const RESOURCES: usize = 320;

/// Core instances. A Rust plugin has a handful, a Python one more than 16.
pub(super) const INSTANCES: usize = 128;

/// Memory of all core instances of a call for globals, functions and imports. A plugin with an interpreter in it takes some MiB.
pub(super) const INSTANCE_BYTES: usize = 64 << 20;

/// Tables, one or two per instance.
pub(super) const TABLES: usize = 256;

/// Elements of one table. Interpreters put some 10,000 functions into theirs.
pub(super) const TABLE_ELEMENTS: usize = 100_000;

/// The size of an element: a pointer.
pub(super) const TABLE_ELEMENT_BYTES: usize = 8;

/// Memories, at most one per instance.
pub(super) const MEMORIES: usize = 128;

/// The most of a plugin's standard error that is kept: enough for a panic's message.
pub(super) const STDERR_BYTES: usize = 8 << 10;

/// Random bytes per request of WASI's generator.
pub(super) const RANDOM_BYTES: u64 = 64 << 10;

/// Artifacts of one format call. No consumer reads more files or keys than a directory of certificates has.
pub(super) const ARTIFACTS: usize = 256;

/// The longest artifact name: the limit of Secret keys; file systems allow two bytes more.
pub(super) const ARTIFACT_NAME_BYTES: usize = 253;

/// The largest component. Interpreters take some 20 MiB.
pub const COMPONENT_BYTES: usize = 64 << 20;

/// Address space of the compiling process. A 20 MiB component takes about 400 MiB.
pub(super) const COMPILE_ADDRESS_SPACE: u64 = 2 << 30;

/// Processor time of the compiling process. A 20 MiB component takes about 15 s of one slow core; its wall-clock time depends on
/// other load, and is limited by the configuration.
pub(super) const COMPILE_CPU_TIME: Duration = Duration::from_secs(120);

/// The wait before a plugin is compiled again that took the compiler's whole time: it uses a processor and is unlikely to
/// succeed.
pub(super) const COMPILE_AGAIN_AFTER: Duration = Duration::from_secs(600);

/// The wait before a plugin is loaded again after a failure that may pass: a file that cannot be read, a process that cannot be
/// started.
pub(super) const LOAD_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// The largest schema of a plugin's configuration. That of `oauth2` has 4 KiB.
pub(super) const SCHEMA_BYTES: usize = 128 << 10;

/// A plugin's description of itself: some sentences.
pub(super) const ABOUT_BYTES: usize = 32 << 10;

/// Processor time of the process that validates configurations, for its start and the schema. A large schema takes 20 ms; a
/// program that was built without optimisation takes ten times as long.
pub(super) const JUDGE_TIME: Duration = Duration::from_millis(500);

/// The additional time for each KiB of configurations: ten times what it takes.
pub(super) const JUDGE_TIME_PER_KIB: Duration = Duration::from_millis(1);

/// The wall-clock limit of that process as a multiple of its processor time, for a busy machine.
pub(super) const JUDGE_PATIENCE: u32 = 20;

/// Its address space: the program's own, and that of ten thousand configurations.
pub(super) const JUDGE_ADDRESS_SPACE: u64 = 512 << 20;

/// Its largest answer: a thousand mistakes.
pub(super) const JUDGED_BYTES: u64 = 4 << 20;

/// Reserved address space per memory: as much as the default limit allows to use, so that growing never moves it. wasmtime's
/// 4 GiB would exhaust an address-space limit with few calls in flight.
pub(super) const MEMORY_RESERVATION: u64 = 64 << 20;

/// Guard pages after a memory. Bounds are checked in code; the guard only saves checks at constant offsets.
pub(super) const MEMORY_GUARD: u64 = 64 << 10;

/// The interval at which running plugins are interrupted: the accuracy of time limits, and the longest delay of others by a
/// plugin in a loop.
pub(super) const TICK: Duration = Duration::from_millis(3);

/// How many of these intervals a call may compute without waiting for its turn. Ordinary plugins end within the first.
pub(super) const TICKS_AT_WILL: u32 = 3;

/// A plugin with more memory than this does not run on the runtime's worker threads: an instruction that fills or copies all of
/// it is not interrupted by a tick, and the first access to pages takes longest.
pub(super) const LARGE_MEMORY: usize = 4 << 20;

/// The longest turn of a computing plugin that is reserved. Longer ones waited for the host.
pub(super) const LONGEST_TURN: Duration = Duration::from_millis(50);

/// How long a plugin may run on once the process is to end: long enough to read the answer that it waited for.
pub const TIME_AFTER_STOP: Duration = Duration::from_millis(500);
