//! Damaged files: whatever is in a plan, in a sweep's directory or in what a worker is asked, no command panics. It goes on, or
//! it says in one line what is wrong.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "writes real files and starts the real program"
)]

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

use proptest::prelude::*;
use scenarios::{
    plan::{Plan, generate, profile},
    run::check_plan,
    sweep::{Exit, merge, stored_options},
    trouble::Trouble,
};

/// One way to spoil a text.
#[derive(Clone, Debug)]
enum Damage {
    Flip { at: prop::sample::Index, bit: u8 },
    Cut { at: prop::sample::Index },
    SwapLines { one: prop::sample::Index, other: prop::sample::Index },
    DoubleLine { at: prop::sample::Index },
    Number { at: prop::sample::Index, number: &'static str },
    Nest { at: prop::sample::Index, bracket: &'static str, depth: usize },
    Insert { at: prop::sample::Index, text: &'static str },
}

const NUMBERS: &[&str] =
    &["0", "-1", "18446744073709551615", "9223372036854775807", "1e999", "340282366920938463463374607431768211456"];
const TEXTS: &[&str] = &["\0", "\u{7f}", "\\ud800", "\"", "null", "}\n{", "../../x", "\r\n"];

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        (at(), 0u8..8).prop_map(|(at, bit)| Damage::Flip { at, bit }),
        at().prop_map(|at| Damage::Cut { at }),
        (at(), at()).prop_map(|(one, other)| Damage::SwapLines { one, other }),
        at().prop_map(|at| Damage::DoubleLine { at }),
        (at(), prop::sample::select(NUMBERS)).prop_map(|(at, number)| Damage::Number { at, number }),
        (at(), prop::sample::select(&["[", "{\"a\":", "a = ["][..]), 1usize..5_000)
            .prop_map(|(at, bracket, depth)| Damage::Nest { at, bracket, depth }),
        (at(), prop::sample::select(TEXTS)).prop_map(|(at, text)| Damage::Insert { at, text }),
    ]
}

fn spoiled(original: &[u8], damage: &Damage) -> Vec<u8> {
    let mut bytes = original.to_vec();
    if bytes.is_empty() {
        return bytes;
    }
    let insert = |bytes: &mut Vec<u8>, at: usize, text: &[u8]| {
        bytes.splice(at..at, text.iter().copied());
    };
    match damage {
        Damage::Flip { at, bit } => {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        Damage::Cut { at } => bytes.truncate(at.index(bytes.len())),
        Damage::SwapLines { one, other } => {
            let mut lines: Vec<&[u8]> = original.split(|byte| *byte == b'\n').collect();
            let (one, other) = (one.index(lines.len()), other.index(lines.len()));
            lines.swap(one, other);
            bytes = lines.join(&b'\n');
        }
        Damage::DoubleLine { at } => {
            let mut lines: Vec<&[u8]> = original.split(|byte| *byte == b'\n').collect();
            let at = at.index(lines.len());
            lines.insert(at, lines[at]);
            bytes = lines.join(&b'\n');
        }
        Damage::Number { at, number } => {
            // The first number at or after the place.
            let from = at.index(bytes.len());
            if let Some(begin) = (from..bytes.len()).find(|index| bytes[*index].is_ascii_digit()) {
                let end = (begin..bytes.len()).find(|index| !bytes[*index].is_ascii_digit()).unwrap_or(bytes.len());
                bytes.splice(begin..end, number.bytes());
            }
        }
        Damage::Nest { at, bracket, depth } => {
            let at = at.index(bytes.len());
            insert(&mut bytes, at, bracket.repeat(*depth).as_bytes());
        }
        Damage::Insert { at, text } => {
            let at = at.index(bytes.len());
            insert(&mut bytes, at, text.as_bytes());
        }
    }
    bytes
}

fn chaos(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_chaos")).args(arguments).output().expect("the program starts")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the path is text")
}

/// The files of a small sweep, of which each seed failed: records with everything in them.
fn sound() -> &'static [(String, Vec<u8>)] {
    static FILES: OnceLock<Vec<(String, Vec<u8>)>> = OnceLock::new();
    FILES.get_or_init(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let out = directory.path().join("out");
        let arguments =
            ["chaos", "--job", "rehearsal", "--seeds", "0..4", "--set", "violate_at=4", "--out", text(&out)];
        assert_eq!(chaos(&arguments).status.code(), Some(10));
        ["sweep.json", "records.jsonl", "closing.jsonl"]
            .map(|name| (name.to_string(), std::fs::read(out.join(name)).expect("a file")))
            .to_vec()
    })
}

fn spoiled_sweep(directory: &Path, which: &prop::sample::Index, damages: &[Damage]) -> PathBuf {
    let out = directory.join("spoiled");
    std::fs::create_dir(&out).expect("a directory");
    let spoil = which.index(sound().len());
    for (index, (name, bytes)) in sound().iter().enumerate() {
        let mut bytes = bytes.clone();
        if index == spoil {
            for damage in damages {
                bytes = spoiled(&bytes, damage);
            }
        }
        std::fs::write(out.join(name), bytes).expect("written");
    }
    out
}

fn cases(count: u32) -> ProptestConfig {
    ProptestConfig { cases: count, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(250))]

    #[test]
    fn a_damaged_sweep_is_merged_or_refused(
        which in any::<prop::sample::Index>(), damages in prop::collection::vec(damage(), 1..4),
    ) {
        let directory = tempfile::tempdir().expect("a directory");
        let sweep = spoiled_sweep(directory.path(), &which, &damages);
        let _ = stored_options(&sweep);
        let mut said = Vec::new();
        match merge(&[sweep], &directory.path().join("merged"), &mut said) {
            // Each seed of it failed: no damage makes it clean, unless no record is left.
            Ok(exit) => prop_assert!(exit != Exit::Clean || which.index(3) == 1, "{}", String::from_utf8_lossy(&said)),
            Err(Trouble::Usage(message)) => prop_assert_eq!(message.lines().count(), 1, "{}", message),
            Err(Trouble::Environment(message)) => prop_assert!(false, "not the machine's fault: {}", message),
        }
    }

    #[test]
    fn a_damaged_plan_is_read_or_refused(seed in 0u64..1_000, damages in prop::collection::vec(damage(), 1..4)) {
        let mut bytes = generate(&profile::DEFAULT, seed).to_toml().into_bytes();
        for damage in &damages {
            bytes = spoiled(&bytes, damage);
        }
        match Plan::from_toml(&String::from_utf8_lossy(&bytes)) {
            Ok(plan) => {
                let _ = check_plan(&plan);
                // What was read can be written and read again.
                prop_assert_eq!(Plan::from_toml(&plan.to_toml()), Ok(plan));
            }
            Err(error) => prop_assert_eq!(error.to_string().lines().count(), 1, "{}", error),
        }
    }
}

proptest! {
    #![proptest_config(cases(24))]

    /// Through the program: whatever it makes of the files, it ends by itself, with a status of its own.
    #[test]
    fn a_damaged_sweep_is_resumed_or_refused(
        which in any::<prop::sample::Index>(), damages in prop::collection::vec(damage(), 1..4),
    ) {
        let directory = tempfile::tempdir().expect("a directory");
        let sweep = spoiled_sweep(directory.path(), &which, &damages);
        let output = chaos(&["chaos", "--resume", text(&sweep), "--budget", "1s"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let status = output.status.code();
        prop_assert!(matches!(status, Some(0 | 10 | 64)), "{status:?}: {said}");
        prop_assert!(!said.contains("panicked"), "{said}");
        if status == Some(64) {
            prop_assert_eq!(said.trim_end().lines().count(), 1, "{}", said);
        }
    }

    #[test]
    fn a_damaged_plan_is_replayed_or_refused(seed in 0u64..1_000, damage in damage()) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("plan.toml");
        let plan = generate(&profile::DEFAULT, seed).to_toml();
        std::fs::write(&path, spoiled(plan.as_bytes(), &damage)).expect("written");
        let output = chaos(&["replay", "--quiet", "--plan", text(&path)]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let status = output.status.code();
        // A plan that can still be run may be a run that breaks; it may not break the harness.
        prop_assert!(matches!(status, Some(0 | 10 | 64)), "{status:?}: {said}");
        if status == Some(64) {
            prop_assert_eq!(said.trim_end().lines().count(), 1, "{}", said);
        }
    }
}

/// The way of a worker, to which its parent speaks.
#[test]
fn a_worker_that_is_asked_nonsense_says_so_and_lives() {
    use std::io::Write as _;

    let mut process = Command::new(env!("CARGO_BIN_EXE_chaos"))
        .arg("worker")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("a worker");
    let mut input = process.stdin.take().expect("a pipe");
    let deep = "[".repeat(100_000);
    for line in ["", "{}", "null", &deep, "{\"what\":{\"Plan\":\"x = [\"}}"] {
        writeln!(input, "{line}").expect("it listens");
    }
    drop(input);
    let output = process.wait_with_output().expect("it ends");
    assert!(output.status.success());
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(said.lines().filter(|line| line.starts_with("WEIR-RUN ")).count(), 5, "{said}");
    assert_eq!(said.matches("\"verdict\":\"environment\"").count(), 5, "{said}");
}
