use proptest::prelude::*;

use super::{FileReference, FlinkMetadata, KeyedState, MAGIC, OperatorStateMode, StateStream, read};

/// Writes as Java's `DataOutput` does.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn begin(version: u32) -> Writer {
        Writer::default().u32(MAGIC).u32(version)
    }
    fn u8(mut self, value: u8) -> Writer {
        self.0.push(value);
        self
    }
    fn u32(mut self, value: u32) -> Writer {
        self.0.extend(value.to_be_bytes());
        self
    }
    fn i64(mut self, value: i64) -> Writer {
        self.0.extend(value.to_be_bytes());
        self
    }
    fn bytes(mut self, bytes: &[u8]) -> Writer {
        self.0.extend(bytes);
        self
    }
    fn text(self, text: &str) -> Writer {
        self.u16(u16::try_from(text.len()).expect("short")).bytes(text.as_bytes())
    }
    fn u16(self, value: u16) -> Writer {
        self.bytes(&value.to_be_bytes())
    }
    /// One operator of two subtasks, the second of them finished, with keyed state in a relative file and a list state.
    fn operator_of_version_3(self) -> Writer {
        self.bytes(&[0xab; 16])
            .u32(2)
            .u32(128)
            .u8(0)
            .u32(2)
            .u32(0)
            // The managed operator state: a union list of two elements.
            .u32(1)
            .u8(4)
            .u32(1)
            .text("offsets")
            .u8(1)
            .u32(2)
            .i64(0)
            .i64(17)
            .u8(1)
            .text("inline")
            .u32(3)
            .bytes(&[1, 2, 3])
            // No raw operator state; key groups 0 and 1 in a file beside the metadata; no raw keyed state.
            .u32(0)
            .u8(3)
            .u32(0)
            .u32(2)
            .i64(100)
            .i64(200)
            .u8(6)
            .text("part-1")
            .i64(4_096)
            .u8(0)
            .u32(0)
            .u32(0)
            // The second subtask has finished.
            .u32((!1i32).cast_unsigned())
    }
}

fn sample() -> Vec<u8> {
    let master = Writer::default().u32(7).text("hook").u32(2).bytes(&[9, 9]).0;
    Writer::begin(3)
        .i64(42)
        .u32(1)
        .u32(0xc96b_1696)
        .u32(u32::try_from(master.len()).expect("short"))
        .bytes(&master)
        .u32(1)
        .operator_of_version_3()
        .0
}

#[test]
fn what_was_written_is_read() {
    let metadata = read(&sample()).expect("sound");
    assert_eq!((metadata.version, metadata.checkpoint_id), (3, 42));
    assert_eq!(metadata.master_states[0].name, "hook");
    assert_eq!((metadata.master_states[0].version, metadata.master_states[0].bytes), (7, 2));
    let operator = &metadata.operators[0];
    assert_eq!((operator.parallelism, operator.max_parallelism), (2, 128));
    assert_eq!(operator.id, "ab".repeat(16));
    let state = operator.subtasks[0].state.as_ref().expect("it runs");
    let list = &state.managed_operator.as_ref().expect("given").states[0];
    assert_eq!((list.name.as_str(), list.mode, &list.offsets[..]), ("offsets", OperatorStateMode::Union, &[0, 17][..]));
    assert!(matches!(&state.managed_keyed, Some(KeyedState::KeyGroups { canonical: false, .. })));
    assert_eq!(state.managed_keyed.as_ref().map(KeyedState::range), Some((0, 2)));
    assert_eq!((operator.subtasks[1].index, &operator.subtasks[1].state), (1, &None));
    let file = FileReference { path: "part-1".to_string(), relative: true, size: Some(4_096), whole: true };
    assert_eq!(metadata.files(), [file]);
    assert_eq!(metadata.sizes(), (4_096, 3));
}

fn refused(bytes: &[u8]) -> String {
    read(bytes).expect_err("must be refused").to_string()
}

#[test]
fn what_is_no_metadata_is_refused_with_its_place() {
    assert_eq!(refused(b""), "byte 0: the magic number needs 4 bytes, 0 are left");
    assert_eq!(refused(b"PK\x03\x04...."), "byte 0: no checkpoint metadata: it begins with 504b0304, not 4960672d");
    assert_eq!(refused(&Writer::begin(7).0), "byte 4: unknown version 7, this program reads 2 to 6");
    let mut longer = sample();
    longer.push(0);
    assert_eq!(refused(&longer), format!("byte {}: 1 bytes too many", sample().len()));
    let without_properties = Writer::begin(4).i64(1).u32(0).u32(0).0;
    assert!(refused(&without_properties).ends_with("the serialised properties are missing at the end"));
    let unknown_handle = Writer::begin(3).i64(1).u32(0).u32(1).bytes(&[0; 16]).u32(1).u32(1).u8(99).u32(0).u32(0).0;
    assert_eq!(refused(&unknown_handle), "byte 49: no stream handle has the kind 99");
}

/// R72: what Flink before 1.3 wrote is refused with the release that takes it over, whatever follows the version.
#[test]
fn metadata_of_before_flink_1_3_is_refused_with_the_way_out() {
    for version in [0, 1] {
        for rest in [&[][..], &[0; 40][..], &sample()[8..]] {
            assert_eq!(
                refused(&Writer::begin(version).bytes(rest).0),
                format!(
                    "byte 4: unknown version {version}, this program reads 2 to 6: Flink before 1.3 wrote it; restore it with \
                     Flink 1.3, and take a savepoint there"
                )
            );
        }
    }
}

/// A length that nothing backs is refused before anything of that length is made.
#[test]
fn an_announced_length_is_not_believed() {
    let many = Writer::begin(3).i64(1).u32(0).u32(i32::MAX.cast_unsigned()).0;
    assert!(refused(&many).contains("the number of operators is 2147483647, but only 0 bytes are left"));
}

/// Key groups inside key groups inside key groups.
#[test]
fn endless_nesting_is_refused() {
    let head = Writer::begin(3).i64(1).u32(0).u32(1).bytes(&[0; 16]).u32(1).u32(1).u8(0).u32(1).u32(0).u32(0).u32(0);
    let mut bytes = head.u8(3).u32(0).u32(0).0;
    for _ in 0..100_000 {
        bytes.extend([3, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
    assert!(refused(&bytes).contains("handles nest too deeply"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_metadata_never_panics(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let mut bytes = sample();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        match read(&bytes) {
            Err(error) => prop_assert!(error.at <= bytes.len()),
            Ok(_) => prop_assert!(!cut, "a file cut at {at} was accepted"),
        }
    }

    #[test]
    fn rubbish_behind_a_sound_head_never_panics(version in 2u32..=6, rest in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = read(&Writer::begin(version).i64(1).bytes(&rest).0);
    }
}

#[expect(clippy::disallowed_methods, reason = "files of Flink's own, read by a test that runs in no world")]
mod flinks_own {
    use std::path::PathBuf;

    fn folder() -> Option<PathBuf> {
        let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        here.ancestors().map(|above| above.join("shared/data/flink-metadata")).find(|folder| folder.is_dir())
    }

    /// Names and contents of metadata written by real Flink, if this checkout has the folder beside it. Those files are not
    /// Weir's to hand on.
    pub fn files() -> Option<Vec<(String, Vec<u8>)>> {
        let entries = std::fs::read_dir(folder()?).expect("readable").map(|entry| entry.expect("readable").path());
        let metadata = entries.filter(|path| path.extension().is_some_and(|extension| extension == "metadata"));
        Some(metadata.map(|path| (path.display().to_string(), std::fs::read(&path).expect("readable"))).collect())
    }
}

/// Every file that real Flink wrote is read to its last byte, and holds what a snapshot of a running job holds.
#[test]
fn metadata_of_real_flink_is_read() {
    let Some(files) = flinks_own::files() else {
        println!("skipped: no metadata of real Flink beside this checkout");
        return;
    };
    let mut versions = std::collections::BTreeMap::<u32, usize>::new();
    for (name, bytes) in files {
        let metadata = read(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        *versions.entry(metadata.version).or_default() += 1;
        looks_sound(&metadata, &name);
        // Cut anywhere, it is refused; from version 4 on the end of the opaque object cannot be told.
        let body = bytes.len() - usize::try_from(metadata.properties_bytes).expect("short");
        for length in (0..body).step_by(97) {
            assert!(read(&bytes[..length]).is_err(), "{name} cut at {length} was accepted");
        }
    }
    assert_eq!(versions.keys().copied().collect::<Vec<_>>(), [2, 3, 4, 5, 6]);
    println!("files by version: {versions:?}");
}

fn looks_sound(metadata: &FlinkMetadata, name: &str) {
    assert!(!metadata.operators.is_empty(), "{name}: no operator");
    for operator in &metadata.operators {
        assert!(operator.parallelism >= 1 && operator.parallelism <= operator.max_parallelism, "{name}: {operator:?}");
        for subtask in &operator.subtasks {
            assert!(
                subtask.index < operator.parallelism,
                "{name}: subtask {} of {}",
                subtask.index,
                operator.parallelism
            );
            let Some(state) = &subtask.state else { continue };
            for keyed in [&state.managed_keyed, &state.raw_keyed].into_iter().flatten() {
                let (first, count) = keyed.range();
                assert!(count >= 1 && first + count <= operator.max_parallelism, "{name}: key groups {first}+{count}");
            }
        }
        if let Some(coordinator) = &operator.coordinator {
            assert!(matches!(coordinator, StateStream::Inline { .. }), "{name}");
        }
    }
}
