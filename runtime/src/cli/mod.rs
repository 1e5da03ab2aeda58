//! The command line of the binary `weir`: jobs for real, on this machine.
//!
//! Exit status: 0 the job finished, 1 it failed (or the snapshot looked at is broken), 20 the environment does not allow it (files, ports), 64 usage.

mod configuration;
mod inspect;
mod processes;
mod progress;
mod run;
mod savepoint;
mod summary;

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand, error::ErrorKind};

pub use self::configuration::ConfigurationArguments;
use self::configuration::{ListArguments, list};
use self::inspect::{InspectArguments, InspectError, inspect};
use self::processes::{JobManagerArguments, TaskManagerArguments, job_manager, task_manager};
pub use self::run::{JobArguments, RunArguments, RunError, run};
use self::savepoint::{SavepointArguments, TriggerArguments, savepoint, stop};

const EXIT_FAILED: u8 = 1;
const EXIT_ENVIRONMENT: u8 = 20;
const EXIT_USAGE: u8 = 64;

#[derive(Parser)]
#[command(name = "weir", version, about = "Runs streaming jobs with exactly-once checkpoints.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a job on this machine: an in-process cluster over loopback TCP, with checkpoints, to its end.
    Run(RunArguments),
    /// Lead a job on a cluster of processes: serves TaskManagers until the job ends.
    #[command(name = "jobmanager")]
    JobManager(JobManagerArguments),
    /// Run subtasks for a JobManager, until it is killed.
    #[command(name = "taskmanager")]
    TaskManager(TaskManagerArguments),
    /// Take a savepoint of a running job, or dispose of one.
    Savepoint(SavepointArguments),
    /// End a running job with a savepoint, from which it can go on later.
    Stop(TriggerArguments),
    /// List the jobs that come with Weir.
    Jobs,
    /// List all configuration keys: what they mean, what is accepted, the default, and the value that counts.
    Config(ListArguments),
    /// Show what a checkpoint or savepoint of Apache Flink holds.
    Inspect(InspectArguments),
}

/// Parses and executes a command line; prints what went wrong in one line.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            print!("{error}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("weir: {}", one_line(&error.to_string()));
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match arguments.command {
        Command::Jobs => {
            for job in crate::jobs::ALL {
                println!("{:<12} {}", job.name, job.description);
            }
            ExitCode::SUCCESS
        }
        Command::Config(arguments) => reported(list(&arguments)),
        Command::Inspect(arguments) => match inspect(&arguments) {
            Ok(text) => show(&text),
            Err(InspectError::Environment(error)) => {
                eprintln!("weir: {error}");
                ExitCode::from(EXIT_ENVIRONMENT)
            }
            Err(InspectError::Broken(error)) => {
                eprintln!("weir: {error}");
                ExitCode::from(EXIT_FAILED)
            }
        },
        Command::Run(arguments) => reported(run(&arguments)),
        Command::Savepoint(arguments) => reported(savepoint(&arguments)),
        Command::Stop(arguments) => reported(stop(&arguments)),
        Command::JobManager(arguments) => reported(job_manager(&arguments)),
        Command::TaskManager(arguments) => reported(task_manager(&arguments)),
    }
}

fn reported(result: Result<String, RunError>) -> ExitCode {
    match result {
        Ok(report) => show(&report),
        Err(error) => {
            eprintln!("weir: {error}");
            ExitCode::from(match error {
                RunError::Usage(_) => EXIT_USAGE,
                RunError::Environment(_) => EXIT_ENVIRONMENT,
                RunError::Job(_) | RunError::Refused(_) => EXIT_FAILED,
            })
        }
    }
}

/// Prints; somebody who has read enough closes the pipe.
fn show(text: &str) -> ExitCode {
    use std::io::Write;
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            eprintln!("weir: cannot write to standard output: {error}");
            ExitCode::from(EXIT_ENVIRONMENT)
        }
        _ => ExitCode::SUCCESS,
    }
}

/// What clap has to say, without its usage text.
fn one_line(text: &str) -> String {
    if !text.starts_with("error:") {
        return "say what to do: run, jobmanager, taskmanager, savepoint, stop, jobs, config or inspect (see --help)"
            .to_string();
    }
    let first: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    format!("{} (see --help)", first.join(" ").trim_start_matches("error: "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_command_line_is_one_line_that_names_what_is_wrong() {
        for (arguments, says) in [
            (&["weir"][..], "say what to do"),
            (&["weir", "run", "flights", "--config"], "--config"),
            (&["weir", "run", "flights", "-D"], "-D"),
            (&["weir", "run", "flights", "--output", "x", "--parallelism", "0"], "0 is not in 1..=1024"),
            (&["weir", "frob"], "'frob'"),
        ] {
            let Err(error) = Arguments::try_parse_from(arguments) else { panic!("{arguments:?} was accepted") };
            let line = one_line(&error.to_string());
            assert!(line.contains(says) && line.lines().count() == 1, "{arguments:?}: {line}");
        }
    }

    /// R56: a savepoint is named by a path, which is seen from where it is typed, or by a URL.
    #[test]
    fn a_savepoint_is_named_by_a_path_or_a_url() {
        let begins_with = |path: &str| {
            let parsed = Arguments::try_parse_from(["weir", "run", "flights", "-s", path]);
            let Ok(Arguments { command: Command::Run(arguments) }) = parsed else { panic!("{path} was not accepted") };
            arguments.job.restore().expect("it is a path").expect("it was given").path
        };
        for whole in
            ["/kept/savepoint-1", "/kept/savepoint-1/_metadata", "file:///kept/savepoint-1", "s3://kept/savepoint-1"]
        {
            assert_eq!(begins_with(whole), whole);
        }
        let from_here = begins_with("kept/savepoint-1");
        assert!(from_here.starts_with('/') && from_here.ends_with("/kept/savepoint-1"), "{from_here}");
    }
}
