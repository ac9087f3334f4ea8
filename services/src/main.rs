//! The one binary: see `lockgate --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    lockgate::cli::main()
}
