//! The bytes of parts: compressed, damaged, pinned.

use super::*;

/// R177: compression is off by default. Compressed parts are restored as plain ones are, by whichever setting, and are smaller where there
/// is something to save.
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

/// Many keys, in all key groups.
fn filled(compression: bool) -> (BackendSettings, Operator) {
    let settings = BackendSettings { compression, ..BackendSettings::default() };
    let mut operator = Operator::open_in(&settings, &Parts::new(), all_groups()).unwrap();
    for n in 0..4_000 {
        operator.apply(&format!("a rather long key, number {n}"), &Change::Push(n));
    }
    (settings, operator)
}

/// A number of so many bytes.
fn number(part: &[u8], at: usize, bytes: usize) -> usize {
    part[at..at + bytes].iter().rev().fold(0, |number, byte| (number << 8) | usize::from(*byte))
}

/// Where the key groups begin.
fn behind_the_header(part: &[u8]) -> usize {
    10 + number(part, 6, 4)
}

/// The key groups of a compressed part, and where the stream of each lies.
fn streams(part: &[u8]) -> Vec<(usize, std::ops::Range<usize>)> {
    let mut at = behind_the_header(part);
    let mut all = Vec::new();
    while at < part.len() {
        let (group, length) = (number(part, at, 2), number(part, at + 2, 8));
        all.push((group, at + 10..at + 10 + length));
        at += 10 + length;
    }
    all
}

/// Reads Snappy's framing format as it is described, without the library's reader of it.
fn unframed(stream: &[u8]) -> Vec<u8> {
    let (identifier, mut rest) = stream.split_at(10);
    assert_eq!(identifier, b"\xff\x06\x00\x00sNaPpY");
    let mut plain = Vec::new();
    while !rest.is_empty() {
        let (kind, length) = (rest[0], number(rest, 1, 3));
        let (checksum, data) = rest[4..4 + length].split_at(4);
        let data = match kind {
            0 => snap::raw::Decoder::new().decompress_vec(data).unwrap(),
            1 => data.to_vec(),
            other => panic!("a chunk of type {other}"),
        };
        let masked = crc32c::crc32c(&data).rotate_right(15).wrapping_add(0xa282_ead8);
        assert_eq!(checksum, masked.to_le_bytes());
        plain.extend(data);
        rest = &rest[4 + length..];
    }
    plain
}

/// R178: each key group is a Snappy stream of its own, which any program reads that knows the format; they hold what the plain part
/// has for the key group.
#[test]
fn each_key_group_is_a_snappy_stream() {
    let (plain, compressed) = (filled(false).1.snapshot(), filled(true).1.snapshot());
    for ((key_groups, plain), (_, compressed)) in plain.iter().zip(&compressed) {
        let streams = streams(compressed);
        assert_eq!(streams.len(), key_groups.count() as usize);
        let mut unpacked = Vec::new();
        for (group, place) in streams {
            unpacked.extend(u16::try_from(group).unwrap().to_le_bytes());
            unpacked.extend(unframed(&compressed[place]));
        }
        assert!(unpacked == plain[behind_the_header(plain)..], "key groups {key_groups}");
    }
}

/// R180: each key group is decompressed alone: who owns some of a part's takes no notice of what the others hold.
#[test]
fn each_key_group_is_decompressed_alone() {
    let (settings, mut operator) = filled(true);
    let parts = operator.snapshot();
    let mut spoilt = parts.clone();
    assert_eq!(spoilt[1].0, groups(32, 63));
    let mut bytes = spoilt[1].1.to_vec();
    for (_, place) in streams(&parts[1].1).into_iter().filter(|(group, _)| *group >= 48) {
        bytes[place].fill(0xff);
    }
    spoilt[1].1 = bytes.into();
    let restored = |parts: &Parts, last: u16| Operator::open_in(&settings, parts, groups(0, last));
    assert_eq!(restored(&spoilt, 47).unwrap().snapshot(), restored(&parts, 47).unwrap().snapshot());
    let refused = restored(&spoilt, 48).err().unwrap();
    assert!(refused.message().contains("key group 48 does not decompress"), "{refused}");
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

/// R28, R178. The bytes are pinned, compressed ones too: what one version of Weir writes, the next ones read.
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
