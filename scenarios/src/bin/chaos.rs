//! The chaos harness's command line.

/// Runs allocate much and briefly; see `figures chaos` for what it gives.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    std::process::exit(scenarios::cli::main(std::env::args_os()));
}
