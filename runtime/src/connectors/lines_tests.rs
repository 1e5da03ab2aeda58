//! Wherever the cuts fall and however the bytes arrive, every line is read once and in order.

use std::num::ParseIntError;

use proptest::prelude::*;

use super::*;

type Line = (u64, String);

fn source(file: &[u8], splits: u32) -> LineFileSource<Line> {
    let parse = |at: LineAt<'_>, line: &str| Ok(Some((at.offset, line.to_string())));
    LineFileSource::with_lengths(&[("f", file.len() as u64)], splits, parse)
}

/// Reads a split from `offset` to its end, `max_records` at a time; gives the records with the offset after each.
fn read(
    source: &impl Source<Out = Line>,
    split: usize,
    offset: u64,
    file: &[u8],
    max_records: u32,
) -> Result<Vec<(Line, u64)>, UserError> {
    let mut reader = source.open(split, offset);
    let mut records = Vec::new();
    loop {
        let mut batch = Vec::new();
        match reader.poll(max_records, &mut batch)? {
            SplitPoll::Records(count) => {
                assert!(count > 0 && count <= max_records);
                assert_eq!(batch.len(), count as usize);
                // Only the last of the batch has a position that can be seen from outside.
                let last = batch.len() - 1;
                records.extend(batch.into_iter().enumerate().map(|(i, line)| {
                    let after = if i == last { reader.offset() } else { u64::MAX };
                    (line, after)
                }));
            }
            SplitPoll::NeedInput { path, range } => {
                assert_eq!(path, "f");
                assert!(!range.is_empty(), "a read of nothing");
                let end = range.end.min(file.len() as u64);
                let start = range.start.min(end);
                reader.feed(Bytes::copy_from_slice(&file[start as usize..end as usize]))?;
            }
            SplitPoll::Exhausted => {
                assert_eq!(reader.poll(1, &mut batch)?, SplitPoll::Exhausted);
                return Ok(records);
            }
        }
    }
}

/// The lines by an independent reading.
fn lines_of(file: &[u8]) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut offset = 0u64;
    for line in file.split_inclusive(|byte| *byte == b'\n') {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        lines.push((offset, String::from_utf8(text.to_vec()).unwrap()));
        offset += line.len() as u64;
    }
    lines
}

fn file() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        4 => "[a-zé]{0,6}",
        1 => Just(String::new()),
    ];
    let end = prop_oneof![Just("\n"), Just("\r\n")];
    (prop::collection::vec((line, end), 0..30), any::<bool>()).prop_map(|(lines, ended)| {
        let mut file: String = lines.iter().map(|(line, end)| format!("{line}{end}")).collect();
        if !ended {
            file.push_str("last");
        }
        file.into_bytes()
    })
}

proptest! {
    #[test]
    fn every_line_is_read_once_and_in_order(file in file(), splits in 1u32..12, max_records in 1u32..5) {
        let source = source(&file, splits);
        let mut all = Vec::new();
        for split in 0..splits as usize {
            all.extend(read(&source, split, 0, &file, max_records).unwrap().into_iter().map(|(line, _)| line));
        }
        prop_assert_eq!(all, lines_of(&file));
    }

    #[test]
    fn reading_goes_on_from_any_position(file in file(), splits in 1u32..6) {
        let source = source(&file, splits);
        for split in 0..splits as usize {
            let whole = read(&source, split, 0, &file, 1).unwrap();
            let start = source.open(split, 0).offset();
            let offsets = std::iter::once(start).chain(whole.iter().map(|(_, after)| *after));
            for (position, offset) in offsets.enumerate() {
                prop_assert_eq!(source.open(split, offset).offset(), offset);
                prop_assert_eq!(&read(&source, split, offset, &file, 1).unwrap(), &whole[position..]);
            }
        }
    }

    #[test]
    fn lines_longer_than_a_read_are_whole(lengths in prop::collection::vec(0usize..150_000, 1..5), splits in 1u32..5) {
        let file: Vec<u8> = lengths.iter().flat_map(|n| [vec![b'x'; *n], vec![b'\n']].concat()).collect();
        let source = source(&file, splits);
        let mut all = Vec::new();
        for split in 0..splits as usize {
            all.extend(read(&source, split, 0, &file, 100).unwrap().into_iter().map(|(line, _)| line.1.len()));
        }
        prop_assert_eq!(all, lengths);
    }

    #[test]
    fn a_file_of_unknown_length_is_read_to_its_end(file in file()) {
        let source = LineFileSource::new(["f"], |at, line| Ok(Some((at.offset, line.to_string()))));
        let all: Vec<Line> = read(&source, 0, 0, &file, 3).unwrap().into_iter().map(|(line, _)| line).collect();
        prop_assert_eq!(all, lines_of(&file));
    }

    #[test]
    fn only_the_first_line_is_the_header(file in file(), splits in 1u32..8) {
        let source = source(&file, splits).skip_header();
        let mut all = Vec::new();
        for split in 0..splits as usize {
            all.extend(read(&source, split, 0, &file, 2).unwrap().into_iter().map(|(line, _)| line));
        }
        let expected: Vec<Line> = lines_of(&file).into_iter().skip(1).collect();
        prop_assert_eq!(all, expected);
    }
}

#[test]
fn lines_passed_over_do_not_move_the_position() {
    let file = b"1\n\n\n2\n\n";
    let parse = |at: LineAt<'_>, line: &str| Ok((!line.is_empty()).then(|| (at.offset, line.to_string())));
    let source = LineFileSource::with_lengths(&[("f", file.len() as u64)], 1, parse);
    let records = read(&source, 0, 0, file, 1).unwrap();
    assert_eq!(records, [((0, "1".to_string()), 2), ((4, "2".to_string()), 6)]);
    assert_eq!(read(&source, 0, 2, file, 1).unwrap(), records[1..]);
}

#[test]
fn errors_name_the_file_and_the_place() {
    let long = [b"short\n".to_vec(), vec![b'x'; MAX_LINE_BYTES + 1]].concat();
    let error = read(&source(&long, 1), 0, 0, &long, 10).unwrap_err();
    assert!(error.message().starts_with("f: the line at offset 6 is longer"), "{error}");
    // Another split that only has to get past it does.
    assert!(read(&source(&long, 3), 2, 0, &long, 10).unwrap().is_empty());

    let binary = b"ok\n\xff\xfe\n";
    let error = read(&source(binary, 1), 0, 0, binary, 1).unwrap_err();
    assert!(error.message().starts_with("f, line at offset 3: not UTF-8"), "{error}");

    let parse = |_: LineAt<'_>, line: &str| Ok(Some((line.parse::<u64>()?, String::new())));
    let numbers = LineFileSource::with_lengths(&[("f", 6)], 1, parse);
    let error = read(&numbers, 0, 0, b"1\nx\n3\n", 1).unwrap_err();
    let cause: ParseIntError = "x".parse::<u64>().unwrap_err();
    assert_eq!(error.message(), format!("f, line at offset 2: {cause}"));

    // The file is shorter than it was when the job was made.
    let error = read(&source(b"abc\ndef\n", 1), 0, 0, b"abc\n", 1).unwrap_err();
    assert!(error.message().contains("the file has changed"), "{error}");
    let mut reader = source(b"abc\n", 1).open(0, 0);
    assert!(reader.feed(Bytes::from_static(b"abc\n")).unwrap_err().message().contains("nobody asked"));
}

#[test]
fn splits_are_named_by_path_and_number() {
    let parse = |at: LineAt<'_>, line: &str| Ok(Some((at.offset, line.to_string())));
    let source = LineFileSource::with_lengths(&[("a", 10), ("b", 0)], 2, parse);
    let names: Vec<String> = source.splits().into_iter().map(|id| id.0).collect();
    assert_eq!(names, ["a#0/2", "a#1/2", "b#0/2", "b#1/2"]);
}
