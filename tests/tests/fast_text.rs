//! What people read, pinned word by word: a plan, the screen of a failed run, the errors of both command lines with their exit
//! status. A change here is a change of what a user sees.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test prepares and inspects the real machine; the law holds for the runtime"
)]

use std::path::Path;

use weir_tests::processes::program;

const WORKER: &str = env!("CARGO_BIN_EXE_weir-test-worker");

/// Standard output, standard error and exit status, with the temporary directory's name taken out.
fn said(arguments: &[&str], directory: Option<&Path>) -> String {
    let output = program(Path::new(WORKER), arguments);
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    if let Some(directory) = directory {
        text = text.replace(&directory.display().to_string(), "<dir>");
    }
    let status = output.status.code().expect("it was not killed");
    format!("{}\nexit status {status}", text.trim_end())
}

#[test]
fn the_plan_of_a_seed() {
    insta::assert_snapshot!("plan-of-seed-7", said(&["plan", "--seed", "7"], None));
}

/// The screen without the tail of events, which tells of the run and not of the screen.
#[test]
fn the_screen_of_a_failed_run() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("plan.toml");
    let output = program(Path::new(WORKER), &["plan", "--seed", "3", "--profile", "quiet"]);
    let plan = String::from_utf8(output.stdout).expect("text");
    std::fs::write(&path, plan.replacen("\n[cluster]", "sabotage = [\"commit-early\"]\n\n[cluster]", 1))
        .expect("written");
    let screen = said(&["replay", "--quiet", "--plan", path.to_str().expect("text")], Some(directory.path()));
    assert!(screen.lines().filter(|line| line.starts_with("last")).count() >= 10, "{screen}");
    let rest: Vec<&str> = screen.lines().filter(|line| !line.starts_with("last")).collect();
    insta::assert_snapshot!("failed-run", rest.join("\n"));
}

#[test]
fn errors_of_chaos() {
    let directory = tempfile::tempdir().expect("a directory");
    let broken = directory.path().join("broken.toml");
    std::fs::write(&broken, "version = 1\nseed = \"seven\"\n").expect("written");
    let file = directory.path().join("file");
    std::fs::write(&file, "").expect("written");
    let below = file.join("out");
    let text = |path: &Path| path.to_str().expect("text").to_string();
    let absent = text(&directory.path().join("absent.toml"));
    let cases: [&[&str]; 8] = [
        &["replay", "--seed", "1", "--job", "nope"],
        &["replay", "--plan", &text(&broken)],
        &["replay", "--plan", &absent],
        &["replay", "--seed", "1", "--frobnicate"],
        &["plan", "--seed", "x"],
        &["chaos", "--seeds", "9..3"],
        &["chaos", "--seeds", "0..1", "--profile", "nope"],
        &["chaos", "--seeds", "0..1", "--job", "rehearsal", "--out", &text(&below)],
    ];
    insta::assert_snapshot!("errors-of-chaos", conversation("chaos", &cases, directory.path()));
}

#[test]
fn errors_of_weir() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("file");
    std::fs::write(&file, "not a CSV\n").expect("written");
    let text = |path: &Path| path.to_str().expect("text").to_string();
    let (absent, below) = (text(&directory.path().join("absent.csv")), text(&file.join("out")));
    let (file, fresh) = (text(&file), text(&directory.path().join("fresh")));
    let used = directory.path().join("used");
    std::fs::create_dir_all(used.join("ha/1")).expect("made");
    std::fs::write(used.join("ha/1/0"), "x").expect("written");
    let used = text(&used);
    let cases: [&[&str]; 10] = [
        &["weir", "run", "nope", "--output", &fresh],
        &["weir", "run", "flights", "--output", &fresh, "--frobnicate"],
        &["weir", "run", "flights", "--output", &fresh, "--input", &absent],
        &["weir", "run", "wordcount", "--output", &fresh],
        &["weir", "run", "flights", "--output", &below],
        &["weir", "run", "flights", "--output", &used],
        &["weir", "run", "flights", "--output", &fresh, "--records-per-second", "0"],
        &["weir", "run", "flights", "--output", &file],
        &["weir", "inspect", &file],
        &["weir", "inspect", &absent],
    ];
    insta::assert_snapshot!("errors-of-weir", conversation("weir", &cases, directory.path()));
}

/// Each command as typed, and what it says.
fn conversation(program: &str, cases: &[&[&str]], directory: &Path) -> String {
    let told = cases.iter().map(|arguments| {
        let typed: Vec<&str> =
            arguments.iter().copied().filter(|word| *word != program || program == "chaos").collect();
        let typed = typed.join(" ").replace(&directory.display().to_string(), "<dir>");
        format!("$ {program} {typed}\n{}\n", said(arguments, Some(directory)))
    });
    told.collect::<Vec<_>>().join("\n")
}
