//! Prints the figures that Weir is judged by: chaos runs per second, simulated time per real time, records per second of a
//! keyed count on a real cluster.

/// Runs allocate much and briefly; see `figures chaos` for what it gives.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    // The sweep starts this program anew for its runs.
    if arguments.get(1).is_some_and(|first| first == "worker") {
        std::process::exit(scenarios::cli::main(arguments));
    }
    // Processes of a real cluster are this program, too.
    if arguments.get(1).is_some_and(|first| first == "weir") {
        return runtime::cli::main(arguments.into_iter().skip(1));
    }
    std::process::exit(scenarios::figures::main(arguments));
}
