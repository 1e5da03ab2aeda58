//! Operator state as an operator sees it, its snapshots, and who gets what of them.

use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::*;

type Parts = Vec<(u32, Bytes)>;

fn place(index: u32, parallelism: u32) -> SubtaskPlace {
    SubtaskPlace { index, parallelism }
}

/// An operator with one state of each kind and a second split one.
struct Operator {
    backend: OperatorBackend,
    split: OperatorListState<u32>,
    other: OperatorListState<String>,
    union: OperatorListState<u32>,
    broadcast: BroadcastState<u8, u32>,
}

impl Operator {
    fn open(at: SubtaskPlace, parts: &Parts) -> Result<Operator, UserError> {
        let mut backend = OperatorBackend::restore(OperatorUid("op".into()), at, parts)?;
        let mut ctx = backend.open_context();
        let split = ctx.list_state("split")?;
        let other = ctx.list_state("other")?;
        let union = ctx.union_list_state("union")?;
        let broadcast = ctx.broadcast_state("broadcast")?;
        backend.opened();
        Ok(Operator { backend, split, other, union, broadcast })
    }

    fn snapshot(&self, index: u32) -> Parts {
        self.backend.snapshot().into_iter().map(|p| (index, p.data.encoded().expect("encoded here"))).collect()
    }
}

/// What one subtask has.
type Contents = (Vec<u32>, Vec<String>, Vec<u32>, BTreeMap<u8, u32>);

fn contents(operator: &Operator) -> Contents {
    let ctx = operator.backend.read_context();
    let Operator { split, other, union, broadcast, .. } = operator;
    (split.get(&ctx).to_vec(), other.get(&ctx).to_vec(), union.get(&ctx).to_vec(), broadcast.map(&ctx).clone())
}

/// Subtask i of old ones, each with its own elements, and the same broadcast map in all.
fn old(parallelism: u32, sizes: &[(usize, usize, usize)], map: &BTreeMap<u8, u32>) -> Vec<Operator> {
    let mut next = 0;
    let mut fresh = || {
        next += 1;
        next
    };
    (0..parallelism)
        .map(|index| {
            let mut operator = Operator::open(place(index, parallelism), &Parts::new()).unwrap();
            let (split, other, union) = sizes[index as usize % sizes.len()];
            let mut ctx = operator.backend.context();
            (0..split).for_each(|_| operator.split.push(&mut ctx, fresh()));
            (0..other).for_each(|_| operator.other.push(&mut ctx, fresh().to_string()));
            (0..union).for_each(|_| operator.union.push(&mut ctx, fresh()));
            for (k, v) in map {
                operator.broadcast.insert(&mut ctx, *k, *v);
            }
            operator
        })
        .collect()
}

/// What is handed to a subtask: its own parts and the union parts of all at the same parallelism, else all.
fn handed(all: &[Parts], to: SubtaskPlace) -> Parts {
    let same = all.len() == to.parallelism as usize;
    let parts = all
        .iter()
        .flatten()
        .filter(|(from, bytes)| !same || *from == to.index || OperatorPart::read(bytes).unwrap().header.union);
    parts.cloned().collect()
}

proptest! {
    /// R: A.10.3. Whatever the parallelisms: split elements are dealt without loss or repetition and evenly, every subtask
    /// has all union elements, and broadcast maps are whole and not multiplied.
    #[test]
    fn every_kind_is_redistributed_by_its_rule(
        before in 1..6u32,
        after in 1..6u32,
        sizes in proptest::collection::vec((0..5usize, 0..5usize, 0..4usize), 1..6),
        map in proptest::collection::btree_map(any::<u8>(), any::<u32>(), 0..5),
    ) {
        let old = old(before, &sizes, &map);
        let all: Vec<Parts> = (0..).zip(&old).map(|(index, operator)| operator.snapshot(index)).collect();
        let then: Vec<Contents> = old.iter().map(contents).collect();
        let new: Vec<Contents> = (0..after)
            .map(|index| {
                let to = place(index, after);
                contents(&Operator::open(to, &handed(&all, to)).unwrap())
            })
            .collect();
        let union: Vec<u32> = then.iter().flat_map(|c| c.2.clone()).collect();
        for subtask in &new {
            prop_assert_eq!(&subtask.2, &union);
            prop_assert_eq!(&subtask.3, &map);
        }
        if before == after {
            for (then, new) in then.iter().zip(&new) {
                prop_assert_eq!((&then.0, &then.1), (&new.0, &new.1));
            }
        }
        let sorted = |all: &[Contents]| {
            let mut split: Vec<u32> = all.iter().flat_map(|c| c.0.clone()).collect();
            let mut other: Vec<String> = all.iter().flat_map(|c| c.1.clone()).collect();
            split.sort_unstable();
            other.sort_unstable();
            (split, other)
        };
        prop_assert_eq!(sorted(&then), sorted(&new));
        if before != after {
            let sizes: Vec<usize> = new.iter().map(|c| c.0.len()).collect();
            prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
        }
    }

    #[test]
    fn damaged_bytes_never_panic(
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
        cut in proptest::option::of(any::<proptest::sample::Index>()),
    ) {
        let whole = old(1, &[(3, 2, 2)], &BTreeMap::from([(1, 2)])).remove(0).snapshot(0);
        let mut parts = whole.clone();
        let mut bytes = parts[0].1.to_vec();
        for (at, value) in &damage {
            let at = at.index(bytes.len());
            bytes[at] = *value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let same = bytes == parts[0].1;
        parts[0].1 = bytes.into();
        let opened = Operator::open(place(0, 1), &parts);
        prop_assert!(!same || opened.is_ok());
        prop_assert!(cut.is_none() || same || opened.is_err(), "a cut never passes");
    }
}

#[test]
fn a_snapshot_is_the_state_at_its_barrier() {
    let mut operator = old(1, &[(2, 0, 0)], &BTreeMap::from([(1, 1)])).remove(0);
    let waiting = operator.backend.snapshot();
    let then = contents(&operator);
    let mut ctx = operator.backend.context();
    operator.split.push(&mut ctx, 99);
    operator.broadcast.insert(&mut ctx, 1, 2);
    let parts = waiting.into_iter().map(|p| (0, p.data.encoded().unwrap())).collect();
    assert_eq!(contents(&Operator::open(place(0, 1), &parts).unwrap()), then);
    assert_eq!(contents(&operator).0.last(), Some(&99));
}

#[test]
fn parts_that_do_not_fit_together_are_refused() {
    let all: Vec<Parts> =
        (0..).zip(&old(3, &[(1, 1, 1)], &BTreeMap::new())).map(|(i, operator)| operator.snapshot(i)).collect();
    let refused = |parts: &Parts, at| Operator::open(at, parts).err().map(UserError::into_message).unwrap();
    let mut missing = handed(&all, place(0, 2));
    missing.retain(|(from, _)| *from != 1);
    assert_eq!(refused(&missing, place(0, 2)), "there is no operator state of subtask 1 of 3");
    let mut own_only = handed(&all, place(1, 3));
    own_only.retain(|(from, _)| *from == 1);
    assert_eq!(refused(&own_only, place(1, 3)), "there is no operator state of subtask 0 of 3", "of union state");
    let mut twice = handed(&all, place(0, 2));
    twice.push(twice[0].clone());
    assert_eq!(refused(&twice, place(0, 2)), "the operator state of subtask 0 is there twice");
    let mut mislabelled = handed(&all, place(0, 2));
    mislabelled[0].0 = 2;
    assert!(refused(&mislabelled, place(0, 2)).contains("was written by subtask 0"));
    let error = OperatorBackend::restore(OperatorUid("sum".into()), place(0, 2), &handed(&all, place(0, 2)));
    assert!(error.err().unwrap().message().contains("is of operator op"));
}

#[test]
fn a_state_of_another_type_or_kind_is_refused_and_both_are_named() {
    let parts = old(1, &[(1, 0, 0)], &BTreeMap::new()).remove(0).snapshot(0);
    let reopened = || OperatorBackend::restore(OperatorUid("op".into()), place(0, 1), &parts).unwrap();
    let error = reopened().open_context().list_state::<i64>("split").err().unwrap();
    assert!(error.message().contains("u32") && error.message().contains("i64"), "{error}");
    let error = reopened().open_context().union_list_state::<u32>("split").err().unwrap();
    assert!(error.message().contains("Split") && error.message().contains("Union"), "{error}");
    let mut backend = reopened();
    let mut ctx = backend.open_context();
    ctx.list_state::<u32>("split").unwrap();
    ctx.list_state::<u32>("split").unwrap();
    assert!(ctx.broadcast_state::<u32, u32>("split").err().unwrap().message().contains("declared twice"));
}

#[test]
fn state_that_is_no_longer_declared_is_carried_along() {
    let parts = old(1, &[(2, 1, 3)], &BTreeMap::from([(7, 8)])).remove(0).snapshot(0);
    let mut backend = OperatorBackend::restore(OperatorUid("op".into()), place(0, 1), &parts).unwrap();
    backend.open_context().list_state::<u32>("split").unwrap();
    backend.opened();
    let again: Parts = backend.snapshot().into_iter().map(|p| (0, p.data.encoded().unwrap())).collect();
    assert_eq!(again, parts);
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Before {
    count: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct After {
    count: u64,
    note: Option<String>,
}

/// A backend with its states "split", "union" and "broadcast".
type Declared<M, V> = (OperatorBackend, OperatorListState<V>, OperatorListState<V>, BroadcastState<M, V>);

fn declared<M: StateValue + Ord, V: StateValue>(parts: &Parts) -> Result<Declared<M, V>, UserError> {
    let mut backend = OperatorBackend::restore(OperatorUid("op".into()), place(0, 1), parts)?;
    let mut ctx = backend.open_context();
    let (split, union) = (ctx.list_state("split")?, ctx.union_list_state("union")?);
    let broadcast = ctx.broadcast_state("broadcast")?;
    backend.opened();
    Ok((backend, split, union, broadcast))
}

fn parts_of(backend: &OperatorBackend) -> Parts {
    backend.snapshot().into_iter().map(|part| (0, part.data.encoded().unwrap())).collect()
}

fn filled<V: StateValue>(made: impl Fn(u64) -> V) -> Parts {
    let (mut backend, split, union, broadcast) = declared::<u8, V>(&Parts::new()).unwrap();
    let mut ctx = backend.context();
    for n in 0..3 {
        split.push(&mut ctx, made(n));
        union.push(&mut ctx, made(n + 10));
        broadcast.insert(&mut ctx, n as u8, made(n + 20));
    }
    parts_of(&backend)
}

/// R20. Elements of all kinds of operator state grow as values of keyed state do; what cannot be is refused in the same words.
#[test]
fn elements_grow_with_their_type() {
    let old = filled(|count| Before { count });
    let (mut backend, ..) = declared::<u8, After>(&old).unwrap();
    assert_eq!(parts_of(&backend), filled(|count| After { count, note: None }));
    let upgraded: Vec<(String, u64)> = backend.take_upgrades().into_iter().map(|u| (u.state, u.values)).collect();
    assert_eq!(upgraded, [("split".to_string(), 3), ("union".to_string(), 3), ("broadcast".to_string(), 3)]);
    assert!(backend.take_upgrades().is_empty());
    let new = parts_of(&backend);
    let error = declared::<u8, Before>(&new).err().unwrap();
    assert!(
        error.message().contains("Split state of") && error.message().ends_with("field 2 `note` is gone"),
        "{error}"
    );
    // The key of a broadcast map may not even grow.
    let keys = |parts: &Parts| OperatorBackend::restore(OperatorUid("op".into()), place(0, 1), parts).unwrap();
    let mut backend = keys(&Parts::new());
    let state = backend.open_context().broadcast_state::<(u8, Key), u8>("keyed").unwrap();
    backend.opened();
    state.insert(&mut backend.context(), (1, Key { id: 1 }), 1);
    let error = keys(&parts_of(&backend)).open_context().broadcast_state::<(u8, Larger), u8>("keyed").err().unwrap();
    assert!(error.message().contains(": a key: ") && error.message().ends_with("no key may change"), "{error}");
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Key {
    id: u8,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Larger {
    id: u8,
    more: Option<u8>,
}

fn hex(parts: &Parts) -> String {
    parts.iter().map(|(_, bytes)| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n").collect()
}

/// R28. The bytes are pinned; those of the version before structures are read, and written anew in today's.
#[test]
fn the_bytes_of_operator_parts_are_pinned() {
    let parts = old(1, &[(2, 1, 1)], &BTreeMap::from([(7, 300)])).remove(0).snapshot(0);
    insta::assert_snapshot!("operator-parts", hex(&parts));
    let earlier = include_str!("tests/golden/operator-state-version-1.txt");
    let earlier: Parts = earlier
        .lines()
        .map(|line| {
            let byte = |at: usize| u8::from_str_radix(&line[at..at + 2], 16).unwrap();
            (0, (0..line.len()).step_by(2).map(byte).collect::<Vec<u8>>().into())
        })
        .collect();
    assert_eq!(Operator::open(place(0, 1), &earlier).unwrap().snapshot(0), parts);
    let mut backend = OperatorBackend::restore(OperatorUid("op".into()), place(0, 1), &earlier).unwrap();
    let error = backend.open_context().list_state::<i64>("split").err().unwrap();
    assert!(error.message().contains("u32") && error.message().contains("i64"), "{error}");
}
