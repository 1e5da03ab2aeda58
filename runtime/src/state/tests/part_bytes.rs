//! The bytes of parts: compressed, damaged, pinned.

use super::*;

/// Compressed parts are restored as plain ones are, by whichever setting, and are smaller where there is something to save.
#[test]
fn compressed_parts_are_restored() {
    let compressed = BackendSettings { compression: true, ..BackendSettings::default() };
    assert!(!BackendSettings::default().compression, "off by default");
    let mut plain = Operator::open(&Parts::new()).unwrap();
    let mut other = Operator::open_in(&compressed, &Parts::new(), all_groups()).unwrap();
    for n in 0..4_000 {
        for operator in [&mut plain, &mut other] {
            operator.apply(&format!("a rather long key, number {n}"), &Change::Push(n));
        }
    }
    let (plain, small) = (plain.snapshot(), other.snapshot());
    let length = |parts: &Parts| parts.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
    assert!(length(&small) * 2 < length(&plain), "{} of {} bytes", length(&small), length(&plain));
    assert_eq!(Operator::open(&small).unwrap().snapshot(), plain);
    assert_eq!(Operator::open_in(&compressed, &plain, all_groups()).unwrap().snapshot(), small);
}

/// Whatever byte of a compressed part is altered, it decodes to an error or, where nothing depends on it, to the same.
#[test]
fn damage_to_a_compressed_part_is_data() {
    let compressed = BackendSettings { compression: true, ..BackendSettings::default() };
    let mut operator = Operator::open_in(&compressed, &Parts::new(), all_groups()).unwrap();
    for n in 0..20 {
        operator.apply(&format!("k{n}"), &Change::Set(n));
    }
    let parts = operator.snapshot();
    for at in 0..parts[1].1.len() {
        let (mut bad, mut altered) = (parts[1].1.to_vec(), parts.clone());
        bad[at] ^= 0x40;
        altered[1].1 = bad.into();
        if let Ok(mut restored) = Operator::open_in(&compressed, &altered, all_groups()) {
            // The padding of a frame's checksum, and names of types and states, are not compressed data.
            let _ = restored.snapshot();
        }
    }
}

/// The bytes are pinned: what one version of Weir writes, the next ones read.
#[test]
fn the_bytes_of_parts_are_pinned() {
    for (name, compression) in [("part", false), ("part-compressed", true)] {
        let settings = BackendSettings { compression, ..BackendSettings::default() };
        let mut operator = Operator::open_in(&settings, &Parts::new(), groups(34, 36)).unwrap();
        for change in [Change::Set(300), Change::Push(-1), Change::Push(70_000), Change::Insert(3, "three".into())] {
            operator.apply(&"hello".to_string(), &change);
        }
        let line = |(groups, bytes): &(KeyGroupRange, Bytes)| {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{groups}: {hex}")
        };
        let parts = operator.snapshot();
        insta::assert_snapshot!(name, parts.iter().map(line).collect::<Vec<_>>().join("\n"));
        assert_eq!(Operator::open_in(&settings, &parts, groups(34, 36)).unwrap().snapshot(), parts);
    }
}
