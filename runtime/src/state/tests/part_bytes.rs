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

fn hex(parts: &Parts) -> String {
    let line = |(groups, bytes): &(KeyGroupRange, Bytes)| {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{groups}: {hex}")
    };
    parts.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// What [`hex`] wrote.
fn from_hex(text: &str) -> Parts {
    let part = |line: &str| {
        let (range, hex) = line.split_once(": ").unwrap();
        let (first, last) = range.split_once("..").unwrap();
        let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
        (groups(first.parse().unwrap(), last.parse().unwrap()), bytes.into())
    };
    text.lines().map(part).collect()
}

const PINNED: [(&str, bool); 2] = [("part", false), ("part-compressed", true)];

fn pinned(compression: bool) -> (BackendSettings, Operator) {
    let settings = BackendSettings { compression, ..BackendSettings::default() };
    let mut operator = Operator::open_in(&settings, &Parts::new(), groups(34, 36)).unwrap();
    for change in [Change::Set(300), Change::Push(-1), Change::Push(70_000), Change::Insert(3, "three".into())] {
        operator.apply(&"hello".to_string(), &change);
    }
    (settings, operator)
}

/// R28. The bytes are pinned: what one version of Weir writes, the next ones read.
#[test]
fn the_bytes_of_parts_are_pinned() {
    for (name, compression) in PINNED {
        let (settings, mut operator) = pinned(compression);
        let parts = operator.snapshot();
        insta::assert_snapshot!(name, hex(&parts));
        assert_eq!(Operator::open_in(&settings, &parts, groups(34, 36)).unwrap().snapshot(), parts);
    }
}

/// R28. Parts of every earlier version are read, and written anew in today's.
#[test]
fn parts_of_earlier_versions_are_read() {
    let earlier = [include_str!("golden/keyed-state-version-1.txt"), include_str!("golden/keyed-state-version-2.txt")];
    for (text, (_, compression)) in earlier.into_iter().zip(PINNED) {
        let parts = from_hex(text);
        assert_eq!(hex(&parts), text.trim_end(), "read as it is written");
        let (settings, mut operator) = pinned(compression);
        assert_eq!(Operator::open_in(&settings, &parts, groups(34, 36)).unwrap().snapshot(), operator.snapshot());
        // Nothing is known of its types but their names, which are believed as they were.
        let mut other = restore_range::<String>(&parts, groups(34, 36)).unwrap();
        let error = other.open_context().value_state::<i16>("value").err().unwrap();
        assert!(error.message().contains("Value state of u64") && error.message().contains("i16"), "{error}");
        assert!(restore_range::<Box<str>>(&parts, groups(34, 36)).err().unwrap().message().contains("keys of type"));
    }
    let unknown = [b"WKST".as_slice(), &5u16.to_le_bytes(), &[0; 20]].concat();
    let error = PartReader::new(&unknown.into()).err().unwrap();
    assert_eq!(error.0, "format version 5, this program reads versions 1 to 4");
}

impl StateKey for Box<str> {
    fn java_hash(&self) -> i32 {
        self.to_string().java_hash()
    }
}
