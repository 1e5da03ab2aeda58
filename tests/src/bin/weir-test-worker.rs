//! The program that tests start as a child: everything that `chaos` is, and, after the word `weir`, everything that `weir` is.
//! Tests of this crate cannot name the binaries of other crates, and building those separately could give another build.

use std::{ffi::OsString, process::ExitCode};

fn main() -> ExitCode {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    if arguments.get(1).is_some_and(|word| word == "weir") {
        arguments.remove(0);
        return runtime::cli::main(arguments);
    }
    ExitCode::from(u8::try_from(scenarios::cli::main(arguments)).unwrap_or(u8::MAX))
}
