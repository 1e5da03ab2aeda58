//! The command line, a file per command. Whatever is wrong with it is one line on standard error and status 64.

mod arguments;
mod chaos;
mod confirm_fixed;
mod coverage;
mod exhaust;
mod explain;
mod merge;
mod plan;
mod power;
mod profiles;
mod replay;
mod shrink;
mod worker_process;

use std::io::Write;

use clap::{Parser, Subcommand};

use crate::{sweep::Exit, trouble::Trouble};

#[derive(Parser)]
#[command(name = "weir", about = "Puts stream jobs through chaos, deterministically.", version)]
#[command(after_help = "Exit status: 0 clean, 10 violation, 11 nondeterminism, 12 the harness is blind or broken, \
                        20 the environment failed, 64 usage.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the plans of many seeds and judges them.
    Chaos(chaos::Chaos),
    /// Puts the directories of several shards together.
    Merge(merge::Merge),
    /// Runs one plan and tells its story.
    Replay(replay::Replay),
    /// Makes a failing plan as small as it gets, explains it, and keeps it.
    Shrink(shrink::Shrink),
    /// Runs as many seeds as it takes to be sure that a failure is gone.
    ConfirmFixed(confirm_fixed::ConfirmFixed),
    /// Says why a plan fails: which faults it takes, and from where on nothing could help.
    Explain(explain::Explain),
    /// Prints the plan of a seed as TOML.
    Plan(arguments::Chosen),
    /// Lists the profiles.
    Profiles,
    /// Measures how soon each planted bug is found.
    Power(power::Power),
    /// Places every fault at every step of one seed's clean run.
    Exhaust(exhaust::Exhaust),
    /// Shows in full what the records of a sweep covered.
    Coverage(coverage::Records),
    #[command(hide = true)]
    Worker(worker_process::Worker),
}

/// Runs the program. Gives the exit status.
pub fn main(arguments: impl IntoIterator<Item = std::ffi::OsString>) -> i32 {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) if !error.use_stderr() => {
            // Help and version. A closed pipe is no failure of theirs.
            let _ = error.print();
            return Exit::Clean as i32;
        }
        Err(error) => return usage(&one_line(&error.render().to_string())),
    };
    let result = match cli.command {
        Command::Chaos(options) => chaos::run(options),
        Command::Merge(options) => merge::run(&options),
        Command::Replay(options) => replay::run(&options),
        Command::Shrink(options) => shrink::run(&options),
        Command::ConfirmFixed(options) => confirm_fixed::run(options),
        Command::Explain(options) => explain::run(&options),
        Command::Plan(chosen) => plan::run(&chosen),
        Command::Profiles => profiles::run(),
        Command::Power(options) => power::run(options),
        Command::Exhaust(options) => exhaust::run(options),
        Command::Coverage(records) => coverage::run(&records),
        Command::Worker(options) => worker_process::run(options),
    };
    match result {
        Ok(exit) => exit as i32,
        Err(message) => {
            eprintln!("weir: {message}");
            Exit::Environment as i32
        }
    }
}

fn usage(message: &str) -> i32 {
    eprintln!("weir: {message}");
    Exit::Usage as i32
}

/// What clap has to say, without its usage text.
fn one_line(text: &str) -> String {
    let first: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let message = first.join(" ");
    if text.trim_start().starts_with("error:") {
        format!("{} (see --help)", message.trim_start_matches("error: "))
    } else {
        "say what to do: chaos, merge, exhaust, replay, shrink, explain, confirm-fixed, plan, profiles, coverage or power \
         (see --help)"
            .to_string()
    }
}

fn print(text: &str) -> Result<Exit, String> {
    match writeln!(std::io::stdout(), "{text}") {
        Ok(()) => Ok(Exit::Clean),
        // Somebody has read enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(Exit::Clean),
        Err(error) => Err(format!("cannot write to standard output: {error}")),
    }
}

fn usage_error(message: &str) -> Result<Exit, String> {
    usage(message);
    Ok(Exit::Usage)
}

/// A line for the user if what was asked makes no sense; what of the environment failed is passed on.
fn ended(result: Result<Exit, Trouble>) -> Result<Exit, String> {
    match result {
        Err(Trouble::Usage(message)) => usage_error(&message),
        other => other.map_err(|trouble| trouble.to_string()),
    }
}
