//! What is refused, and in which words.

use super::{super::*, *};

#[test]
fn a_state_of_another_type_is_refused_and_both_types_are_named() {
    let mut operator = Operator::open(&Parts::new()).unwrap();
    operator.apply(&"a".to_string(), &Change::Set(1));
    let parts = operator.snapshot();

    let mut other = restore_range::<String>(&parts, all_groups()).unwrap();
    let error = other.open_context().value_state::<i16>("value").err().unwrap();
    assert!(error.message().contains("u64") && error.message().contains("i16"), "{error}");

    let mut kind = restore_range::<String>(&parts, all_groups()).unwrap();
    let error = kind.open_context().list_state::<u64>("value").err().unwrap();
    assert!(error.message().contains("Value") && error.message().contains("List"), "{error}");

    let mut version = restore_range::<String>(&parts, all_groups()).unwrap();
    let error = version.open_context().value_state_version::<u64>("value", 0).err().unwrap();
    assert!(error.message().contains("version 1") && error.message().contains("version 0"), "{error}");

    let mut twice = restore_range::<String>(&Parts::new(), all_groups()).unwrap();
    let mut ctx = twice.open_context();
    ctx.value_state::<u64>("n").unwrap();
    ctx.value_state::<u64>("n").unwrap();
    let error = ctx.value_state::<bool>("n").err().unwrap();
    assert!(error.message().contains("u64") && error.message().contains("bool"), "{error}");

    let error = restore_range::<u64>(&parts, all_groups()).err().unwrap();
    assert!(error.message().contains("String") && error.message().contains("u64"), "{error}");
}

#[test]
fn parts_that_do_not_fit_together_are_refused() {
    let mut operator = Operator::open(&Parts::new()).unwrap();
    let parts = operator.snapshot();
    let refused = |parts: &Parts| restore_range::<String>(parts, all_groups()).err().map(UserError::into_message);

    let mut missing = parts.clone();
    missing.remove(2);
    assert_eq!(refused(&missing).unwrap(), "no state part holds key group 64");

    let mut twice = parts.clone();
    twice.push(parts[0].clone());
    assert!(refused(&twice).unwrap().contains("occurs in another part"));

    let mut mislabelled = parts.clone();
    mislabelled[0].0 = groups(0, 30);
    assert!(refused(&mislabelled).unwrap().contains("holds key groups 0..31"));

    let error = KeyedBackend::<String>::restore(
        OperatorUid("sum".into()),
        all_groups(),
        MAX_PARALLELISM,
        &parts,
        None,
        &BackendSettings::default(),
    );
    assert!(error.err().unwrap().message().contains("is of operator count"));
    let error = KeyedBackend::<String>::restore(
        OperatorUid("count".into()),
        groups(0, 255),
        256,
        &parts,
        None,
        &BackendSettings::default(),
    );
    assert!(error.err().unwrap().message().contains("max parallelism 128"));
}

#[test]
fn a_key_of_another_subtask_has_no_context() {
    let mut upper = Operator::open_range(&Parts::new(), groups(64, 127)).unwrap();
    // "hello" is in key group 35.
    assert!(upper.backend.context(&"hello".to_string()).unwrap().is_none());
}

#[test]
#[should_panic(expected = "did not declare")]
fn a_handle_that_was_never_declared_says_so() {
    let mut operator = Operator::open(&Parts::new()).unwrap();
    let key = "a".to_string();
    let ctx = operator.backend.context(&key).unwrap().unwrap();
    let _ = ValueState::<u64>::default().get(&ctx);
}
