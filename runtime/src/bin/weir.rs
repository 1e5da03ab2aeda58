//! The binary `weir`.

use std::process::ExitCode;

fn main() -> ExitCode {
    runtime::cli::main(std::env::args_os())
}
