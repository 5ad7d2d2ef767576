//! Validation of configurations by the schemas of plugins. A schema can take unlimited time, memory or stack, by references to
//! itself or by nested alternatives, so schemas of plugins that are not part of the binary are evaluated in a child process with
//! limits.

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::cache::Compiler;
use super::child::{self, Ended};
use super::limits;
use super::schema::{self, Judgement};

/// The hidden subcommand that validates: a schema and configurations on standard input, the judgements on standard output.
pub const JUDGE_COMMAND: &str = "judge-options";

/// The exit status of a child that ran out of time.
const TOO_SLOW: i32 = 3;

/// The exit status of a child that was given no schema: the program's own for wrong input.
const WRONG: i32 = 64;

/// The signals by which others end a process: the kernel where memory is short, and people.
const SIGKILL: i32 = Signal::KILL.as_raw();
const SIGTERM: i32 = Signal::TERM.as_raw();

/// Why a plugin's schema cannot validate configurations.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JudgeError {
    /// It is not a valid schema.
    #[error("its schema is wrong: {message}")]
    Wrong {
        /// What is wrong.
        message: String,
    },
    /// It takes too long.
    #[error("its schema takes more than {} ms of processor time", limit.as_millis())]
    TooSlow {
        /// The limit.
        limit: Duration,
    },
    /// It takes too much memory or stack.
    #[error(
        "its schema takes too much memory, or refers to itself without end: the child that judged it was stopped by {status}"
    )]
    Killed {
        /// How it ended.
        status: ExitStatus,
    },
    /// The system stopped the child, or gave it no time to run: it is short of memory or processors. That may pass.
    #[error("the child that judges options by its schema did not come to its end: {how}")]
    Interrupted {
        /// What happened to it.
        how: String,
    },
    /// The child could not be run, or its output not read.
    #[error("cannot run a child to judge its schema")]
    Child(#[source] std::io::Error),
}

impl JudgeError {
    /// Whether the schema itself is the cause, so that only another plugin helps.
    #[must_use]
    pub const fn is_lasting(&self) -> bool {
        !matches!(self, Self::Child(_) | Self::Interrupted { .. })
    }
}

/// The most mistakes that are reported for all configurations.
const MAX_MISTAKES: usize = 1000;

#[derive(Serialize)]
struct Question<'a> {
    schema: &'a Value,
    configs: &'a [&'a Value],
}

#[derive(Deserialize)]
struct JudgeRequest {
    schema: Value,
    configs: Vec<Value>,
}

/// Validates `configs` by a schema that may be hostile, but leaves out the last ones if the others have very many mistakes.
///
/// # Errors
/// It is not a valid schema, or takes too much.
pub(super) async fn judgements(
    compiler: &Compiler,
    schema: &Value,
    configs: &[&Value],
) -> Result<Vec<Judgement>, JudgeError> {
    let Some(program) = compiler.program() else {
        return judge(schema, configs.iter().copied());
    };
    let question = Question { schema, configs };
    let question =
        serde_json::to_vec(&question).map_err(|error| JudgeError::Child(error.into()))?;
    let limit = time_for(question.len());
    let child = child::run(&program, JUDGE_COMMAND, &question, Stdio::piped());
    let Ended {
        status,
        output,
        said,
    } = tokio::time::timeout(limit * limits::JUDGE_PATIENCE, child)
        .await
        .map_err(|_| JudgeError::Interrupted {
            how: format!(
                "it took more than {} s for {} ms of processor time",
                (limit * limits::JUDGE_PATIENCE).as_secs(),
                limit.as_millis()
            ),
        })?
        .map_err(JudgeError::Child)?;
    match status.code() {
        Some(0) => serde_json::from_slice(&output).map_err(|error| JudgeError::Child(error.into())),
        Some(TOO_SLOW) => Err(JudgeError::TooSlow { limit }),
        Some(WRONG) => Err(JudgeError::Wrong {
            message: said.trim().to_owned(),
        }),
        Some(_) => Err(JudgeError::Child(std::io::Error::other(
            said.trim().to_owned(),
        ))),
        // What a child does to itself ends by other signals.
        None if matches!(status.signal(), Some(SIGKILL | SIGTERM)) => {
            Err(JudgeError::Interrupted {
                how: status.to_string(),
            })
        }
        None => Err(JudgeError::Killed { status }),
    }
}

fn judge<'a>(
    schema: &Value,
    configs: impl Iterator<Item = &'a Value>,
) -> Result<Vec<Judgement>, JudgeError> {
    let judge = schema::judge(schema).map_err(|message| JudgeError::Wrong { message })?;
    let mut told = 0;
    let judged = configs.map_while(|config| {
        // The mistakes reported so far are enough to correct first.
        (told < MAX_MISTAKES).then(|| {
            let judgement = schema::judge_config(schema, &judge, config);
            told += judgement.mistakes.len();
            judgement
        })
    });
    Ok(judged.collect())
}

/// Implements [`JUDGE_COMMAND`]: limits itself, reads a question and writes the answer.
///
/// # Errors
/// The question is invalid, the schema is wrong, or input or output failed.
pub fn judge_options(mut input: impl Read, output: impl Write) -> Result<(), JudgeError> {
    let mut question = Vec::new();
    input
        .read_to_end(&mut question)
        .map_err(JudgeError::Child)?;
    let time = time_for(question.len());
    // In whole seconds, as a fallback if the thread below does not get to run.
    child::limit_this_process(time * 2, limits::JUDGE_ADDRESS_SPACE)
        .and_then(|()| end_after(time))
        .map_err(|error| JudgeError::Child(error.into()))?;
    let JudgeRequest { schema, configs } =
        serde_json::from_slice(&question).map_err(|error| JudgeError::Child(error.into()))?;
    let judgements = judge(&schema, configs.iter())?;
    serde_json::to_writer(output, &judgements).map_err(|error| JudgeError::Child(error.into()))
}

/// The processor time for a question of so many bytes.
fn time_for(bytes: usize) -> Duration {
    let kibibytes = u32::try_from(bytes >> 10).unwrap_or(u32::MAX);
    limits::JUDGE_TIME + limits::JUDGE_TIME_PER_KIB.saturating_mul(kibibytes)
}

/// Ends this process once it has used so much processor time.
fn end_after(time: Duration) -> Result<(), rustix::io::Errno> {
    let watch = move || {
        loop {
            let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
            let used = Duration::try_from(used).unwrap_or_default();
            match time.checked_sub(used) {
                Some(left) if !left.is_zero() => std::thread::sleep(left),
                _ => std::process::exit(TOO_SLOW),
            }
        }
    };
    let thread = std::thread::Builder::new().name("time".to_owned());
    thread
        .spawn(watch)
        .map(drop)
        .map_err(|_| rustix::io::Errno::AGAIN)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use serde_json::json;

    use super::*;

    /// What is said of a schema if its child does this.
    async fn judged(script: &str) -> JudgeError {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("child");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
        let judged = judgements(&Compiler::Program(program), &json!({}), &[&json!({})]).await;
        judged.unwrap_err()
    }

    #[tokio::test]
    async fn a_plugin_is_refused_for_what_its_schema_does_and_not_for_what_the_machine_does() {
        for (script, is_lasting, what) in [
            ("exit 3", true, "more processor time than there is"),
            ("echo no schema >&2; exit 64", true, "no schema"),
            (
                "echo no threads >&2; exit 1",
                false,
                "the child itself failed",
            ),
            ("kill -ABRT $$", true, "more memory than there is"),
            ("kill -SEGV $$", true, "more stack than there is"),
            ("kill -KILL $$", false, "the machine was short of memory"),
            ("kill -TERM $$", false, "somebody ended it"),
            (
                "cat >/dev/null; echo garbage",
                false,
                "an answer that cannot be read",
            ),
        ] {
            let error = judged(script).await;
            assert_eq!(error.is_lasting(), is_lasting, "{what}: {error}");
        }
    }

    #[tokio::test]
    async fn a_child_that_gets_no_time_is_asked_again_later() {
        let error = judged("exec sleep 60").await;
        assert!(!error.is_lasting(), "{error}");
    }
}
