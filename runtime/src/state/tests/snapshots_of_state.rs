//! A snapshot is the state at its barrier, whole, in any number of subtasks, and its order shows nothing.

use super::{super::*, *};

proptest! {
    #[test]
    fn a_snapshot_is_the_state_at_its_barrier_and_comes_back_whole(before in changes(), after in changes()) {
        let mut operator = Operator::open(&Parts::new()).unwrap();
        let mut then = BTreeMap::new();
        apply_all(&mut operator, &mut then, &before);
        assert_is(&mut operator, &then);

        // The stream goes on while the snapshot waits to be encoded.
        let waiting = operator.backend.snapshot().unwrap();
        let mut now = then.clone();
        apply_all(&mut operator, &mut now, &after);
        let parts = encode(waiting);
        assert_is(&mut operator, &now);

        let mut restored = Operator::open(&parts).unwrap();
        assert_is(&mut restored, &then);
        prop_assert_eq!(restored.snapshot(), parts, "equal contents, equal bytes");

        // What comes after has the same effect on the restored state.
        let mut replayed = then.clone();
        apply_all(&mut restored, &mut replayed, &after);
        assert_is(&mut restored, &now);
        prop_assert_eq!(restored.snapshot(), operator.snapshot());
    }

    #[test]
    fn rescaling_moves_every_key_to_its_new_owner(
        before in changes(),
        old in 1u32..6,
        new in 1u32..6,
    ) {
        let mut whole = Operator::open(&Parts::new()).unwrap();
        let mut model = BTreeMap::new();
        apply_all(&mut whole, &mut model, &before);
        let owners = |n: u32, parts: &Parts| -> Vec<Operator> {
            (0..n).map(|i| Operator::open_range(parts, key_group_range(i, n, MAX_PARALLELISM)).unwrap()).collect()
        };
        let parts: Parts = owners(old, &whole.snapshot()).iter_mut().flat_map(Operator::snapshot).collect();
        let mut rescaled = owners(new, &parts);
        for (key, expected) in &model {
            let found: Vec<Model> = rescaled.iter_mut().filter_map(|o| o.read(key)).collect();
            prop_assert_eq!(&found, std::slice::from_ref(expected));
        }
        let back: Parts = rescaled.iter_mut().flat_map(Operator::snapshot).collect();
        prop_assert_eq!(Operator::open(&back).unwrap().snapshot(), whole.snapshot());
    }

    #[test]
    fn damaged_bytes_never_panic(
        before in changes(),
        part in 0usize..4,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut operator = Operator::open(&Parts::new()).unwrap();
        apply_all(&mut operator, &mut BTreeMap::new(), &before);
        let mut parts = operator.snapshot();
        let mut bytes = parts[part].1.to_vec();
        for (at, value) in &damage {
            let at = at.index(bytes.len());
            bytes[at] = *value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let same = bytes == parts[part].1;
        parts[part].1 = bytes.into();
        let opened = Operator::open(&parts);
        if same {
            prop_assert!(opened.is_ok());
        }
        if cut.is_some() && !same {
            // Damaged values may pass here (the part's checksum is somebody else's task); a cut never does.
            prop_assert!(opened.is_err());
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), magic in any::<bool>()) {
        let bytes = if magic { [b"WKST\x01\0".as_slice(), &bytes].concat() } else { bytes };
        let _ = PartReader::new(&Bytes::from(bytes.clone()));
        let section =
            StateSection { group: KeyGroup(0), state: 0, entries: u32::MAX, bytes: Bytes::from(bytes) };
        prop_assert!(section.for_each(|_| Ok(())).is_err());
    }
}

#[test]
fn the_order_of_insertion_and_declaration_does_not_show() {
    let keys: Vec<String> = (0..500).map(|n| format!("key {n}")).collect();
    let mut forward = Operator::open(&Parts::new()).unwrap();
    let mut backward = Operator::open(&Parts::new()).unwrap();
    for key in &keys {
        forward.apply(key, &Change::Set(7));
    }
    for key in keys.iter().rev() {
        backward.apply(key, &Change::Set(7));
    }
    assert_eq!(forward.snapshot(), backward.snapshot());
    assert!(forward.snapshot().iter().all(|(_, bytes)| {
        PartReader::new(bytes).unwrap().header.states.windows(2).all(|pair| pair[0].name < pair[1].name)
    }));
}

#[test]
fn a_snapshot_has_four_parts_with_stable_names_even_if_they_are_empty() {
    let mut operator = Operator::open_range(&Parts::new(), groups(64, 127)).unwrap();
    let names: Vec<String> = operator.backend.snapshot().unwrap().into_iter().map(|part| part.name).collect();
    assert_eq!(names, ["count-64-79", "count-80-95", "count-96-111", "count-112-127"]);
    assert!(operator.snapshot().iter().all(|(_, bytes)| bytes.len() < 1024));
    let mut narrow = Operator::open_range(&Parts::new(), groups(5, 6)).unwrap();
    assert_eq!(narrow.snapshot().len(), 2);
    let mut odd: KeyedBackend<u8> = KeyedBackend::restore(
        OperatorUid("per carrier: ü".into()),
        groups(0, 0),
        1,
        &[],
        None,
        &BackendSettings::default(),
    )
    .unwrap();
    assert_eq!(odd.snapshot().unwrap()[0].name, "per_carrier___-0-0");
}

/// The parts of a snapshot are as many as was said, but never more than key groups; into how many it came apart does not show.
#[test]
fn a_snapshot_has_as_many_parts_as_was_said() {
    for (said, parts) in [(0, 1), (1, 1), (2, 2), (4, 4), (7, 7), (1_000, usize::from(MAX_PARALLELISM))] {
        let settings = BackendSettings { parts_per_snapshot: said, ..BackendSettings::default() };
        let mut operator = Operator::open_in(&settings, &Parts::new(), all_groups()).unwrap();
        for n in 0..200 {
            operator.apply(&format!("k{n}"), &Change::Set(n));
        }
        let written = operator.snapshot();
        assert_eq!(written.len(), parts);
        let four = Operator::open(&written).unwrap().snapshot();
        assert_eq!(four.len(), 4);
        assert_eq!(Operator::open_in(&settings, &four, all_groups()).unwrap().snapshot(), written);
    }
    assert_eq!(BackendSettings::default().parts_per_snapshot, 4);
}

/// R176: many key groups cost little: fourteen bytes each in a full snapshot of one state, and no file more.
#[test]
fn a_key_group_costs_fourteen_bytes() {
    let at_parallelism_two = |max_parallelism: u16| {
        let mut parts = Parts::new();
        for index in 0..2 {
            let range = key_group_range(index, 2, max_parallelism);
            let (uid, settings) = (OperatorUid("count".into()), BackendSettings::default());
            let mut backend: KeyedBackend<String> =
                KeyedBackend::restore(uid, range, max_parallelism, &[], None, &settings).unwrap();
            let value = backend.open_context().value_state::<u64>("value").unwrap();
            backend.opened();
            for n in 0..1_000 {
                let key = format!("key {n}");
                if let Some(mut ctx) = backend.context(&key).unwrap() {
                    value.update(&mut ctx, n).unwrap();
                }
            }
            parts.extend(encode(backend.snapshot().unwrap()));
        }
        let sections = parts.iter().flat_map(|(_, bytes)| PartReader::new(bytes).unwrap().sections);
        assert_eq!(sections.map(|section| section.entries).sum::<u32>(), 1_000);
        parts
    };
    let (few, many) = (at_parallelism_two(128), at_parallelism_two(32_768));
    assert_eq!((few.len(), many.len()), (8, 8));
    let bytes = |parts: &Parts| parts.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
    let (more, expected) = (bytes(&many) - bytes(&few), 14 * (32_768 - 128));
    // The numbers in the headers are longer, too.
    assert!((expected..expected + 64).contains(&more), "{more}, {expected} for the key groups");
}

#[test]
fn state_that_is_no_longer_declared_is_carried_along() {
    let mut operator = Operator::open(&Parts::new()).unwrap();
    for n in 0..100 {
        operator.apply(&format!("k{n}"), &Change::Set(n));
        operator.apply(&format!("k{n}"), &Change::Push(1));
    }
    let parts = operator.snapshot();
    let mut newer = restore_range::<String>(&parts, all_groups()).unwrap();
    newer.open_context().list_state::<i32>("list").unwrap();
    newer.opened();
    assert_eq!(newer.entries().unwrap(), 200);
    assert_eq!(encode(newer.snapshot().unwrap()), parts);
}

/// The number of a part's content changes with the part, and only then.
#[test]
fn unchanged_parts_keep_their_number() {
    fn numbers(operator: &mut Operator) -> Vec<u64> {
        let number = |part: PartSource| match part.data {
            PartData::EncodeUnlessKnown { content, .. } => content,
            _ => panic!("heap parts are numbered"),
        };
        operator.backend.snapshot().unwrap().into_iter().map(number).collect()
    }
    let mut operator = Operator::open(&Parts::new()).unwrap();
    let first = numbers(&mut operator);
    assert_eq!(numbers(&mut operator), first);
    // "hello" is in key group 35, which is in the second part.
    let changes: [&Change; 3] = [&Change::Set(1), &Change::Push(2), &Change::Set(1)];
    let mut last = first.clone();
    for change in changes {
        operator.apply(&"hello".to_string(), change);
        let now = numbers(&mut operator);
        assert_ne!(now[1], last[1]);
        assert_eq!((now[0], &now[2..]), (first[0], &first[2..]));
        last = now;
    }
    let key = "hello".to_string();
    let context = operator.backend.context(&key).unwrap().unwrap();
    assert_eq!(operator.value.get(&context).unwrap(), Some(&1));
    assert_eq!(numbers(&mut operator), last, "reading changes nothing");
}

#[cfg(feature = "sabotage")]
#[test]
fn the_sabotaged_part_restores_without_one_key_group() {
    let mut operator = Operator::open(&Parts::new()).unwrap();
    for n in 0..500 {
        operator.apply(&format!("k{n}"), &Change::Set(n));
    }
    let mut parts = operator.snapshot();
    parts[1].1 = without_one_key_group(&parts[1].1).unwrap();
    let entries = Operator::open(&parts).unwrap().backend.entries().unwrap();
    assert!(entries < 500 && entries > 450, "{entries}");
}
