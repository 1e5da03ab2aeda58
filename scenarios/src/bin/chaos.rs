//! The chaos harness's command line.

fn main() {
    std::process::exit(scenarios::cli::main(std::env::args_os()));
}
