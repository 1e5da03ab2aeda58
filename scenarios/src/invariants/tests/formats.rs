use runtime::ids::CheckpointId;

use crate::invariants::formats::{Manifest, attempt_in_name, checkpoint_in_name, local_file};

/// What is no name of a file of a checkpoint, or of a local copy, or of an attempt, is told from one.
#[test]
fn other_names_are_none() {
    let path = |text: &str| local_file(text, "j").map(|name| (name.subtask, name.checkpoint.0));
    assert_eq!(path("localState/aid_5/jid_j/vtx_1_sti_4/chk_9/part"), Some(((1, 4), 9)));
    for other in [
        "part",
        "elsewhere/aid_5/jid_j/vtx_1_sti_4/chk_9/part",
        "localState/5/jid_j/vtx_1_sti_4/chk_9/part",
        "localState/aid_5/jid_k/vtx_1_sti_4/chk_9/part",
        "localState/aid_5/jid_j/vtx_1/chk_9/part",
        "localState/aid_5/jid_j/vtx_1_sti_4/9/part",
        "localState/aid_5/jid_j/vtx_1_sti_4/chk_9/deeper/part",
        "localState/aid_5/jid_j/vtx_1_sti_4/chk_x/part",
    ] {
        assert_eq!(path(other), None, "{other}");
    }
    assert_eq!(["chk-7/a", "shared/7-a"].map(checkpoint_in_name), [Some(CheckpointId(7)); 2]);
    assert_eq!(["chk-x/a", "shared/7", "7/a", "chk-7"].map(checkpoint_in_name), [None; 4]);
    assert_eq!(["a-1-x", "a-1.x-0", "a", "1.2"].map(attempt_in_name), [None; 4]);
}

/// Each field that a manifest needs is missed by its name.
#[test]
fn a_manifest_without_a_field_names_it() {
    let reason = |text: &str| Manifest::parse(text.as_bytes()).expect_err(text);
    assert!(reason("nonsense").starts_with("not JSON"));
    assert_eq!(reason(r#"{"checkpoint": 4}"#), r#"no text "kind""#);
    assert_eq!(reason(r#"{"kind": "void"}"#), r#"no number "checkpoint""#);
    assert_eq!(reason(r#"{"kind": "sold", "checkpoint": 4}"#), r#"unknown kind "sold""#);
    let with = |object: &str| reason(&format!(r#"{{"kind": "void", "checkpoint": 4, "objects": [{object}]}}"#));
    assert_eq!(with(r#"{"length": 1, "records": 1}"#), r#"no text "name""#);
    assert_eq!(with(r#"{"name": "a", "records": 1}"#), r#"no number "length""#);
    assert_eq!(with(r#"{"name": "a", "length": 1}"#), r#"no number "records""#);
}
