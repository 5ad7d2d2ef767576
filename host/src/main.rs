//! The `evertoken` program; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    evertoken::cli::main()
}
