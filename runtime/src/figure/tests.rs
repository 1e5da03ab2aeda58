use super::*;

fn id(id: u64) -> CheckpointId {
    CheckpointId(id)
}

fn uploaded(figure: &mut LocalRecoveryFigure, process: &str, subtask: &str, checkpoint: u64, bytes: u64) {
    let (subtask, object) = (subtask.to_string(), format!("chk-{checkpoint}/{subtask}-{bytes}"));
    figure.event(process, &Event::PartUploaded { subtask, checkpoint: id(checkpoint), object, bytes });
}

fn stored(figure: &mut LocalRecoveryFigure, process: &str, subtask: &str, checkpoint: u64, bytes: u64) {
    let (subtask, part) = (subtask.to_string(), format!("{subtask}-{bytes}"));
    figure
        .event(process, &Event::LocalPartStored { subtask: subtask.clone(), checkpoint: id(checkpoint), part, bytes });
    figure.event(process, &Event::LocalCopyStored { subtask, checkpoint: id(checkpoint), parts: 1 });
}

fn completed(figure: &mut LocalRecoveryFigure, checkpoint: u64, subtasks: &[&str]) {
    let checkpoint = id(checkpoint);
    for subtask in subtasks {
        figure.event("jobmanager", &Event::CheckpointAcked { subtask: (*subtask).to_string(), checkpoint });
    }
    let object = format!("chk-{checkpoint}/_metadata");
    figure.event("jobmanager", &Event::MetadataWritten { checkpoint, object });
    figure.event("jobmanager", &Event::CheckpointCompleted { checkpoint, sequence: 1 });
}

fn two_checkpoints() -> LocalRecoveryFigure {
    let mut figure = LocalRecoveryFigure::default();
    for checkpoint in [1, 2] {
        uploaded(&mut figure, "tm-1", "count[0]", checkpoint, 700);
        stored(&mut figure, "tm-1", "count[0]", checkpoint, 700);
        uploaded(&mut figure, "tm-2", "count[1]", checkpoint, 1_300);
        completed(&mut figure, checkpoint, &["read[0]", "count[0]", "count[1]"]);
    }
    figure
}

/// The newest completed checkpoint is shown, with what was written for it and nothing else; tasks without state in files have no
/// arrow, and nothing leads from the JobManager into a local store.
#[test]
fn arrows_are_what_was_written() {
    let mut figure = two_checkpoints();
    // Not complete yet; and what becomes of a copy later changes nothing of what was written.
    uploaded(&mut figure, "tm-1", "count[0]", 3, 900);
    let (subtask, reason) = ("count[0]".to_string(), "subsumed".to_string());
    figure.event("tm-1", &Event::LocalCopyDiscarded { subtask, checkpoint: id(2), reason });
    assert_eq!((figure.checkpoint(), figure.completed().collect::<Vec<_>>()), (Some(id(2)), vec![id(1), id(2)]));
    assert_eq!(
        figure.to_text(),
        "checkpoint 2; jobmanager keeps 1, 2, in primary storage only: 2 files of this one\n\
         jobmanager -> primary storage: chk-2/_metadata\n\
         count[0] on tm-1 -> primary storage: 1 files, 700 bytes\n\
         count[0] on tm-1 -> local store of tm-1: 1 files, 700 bytes\n\
         count[1] on tm-2 -> primary storage: 1 files, 1300 bytes\n"
    );
    figure.event("jobmanager", &Event::CheckpointSubsumed { checkpoint: id(1) });
    assert_eq!(figure.completed().collect::<Vec<_>>(), [id(2)]);
}

/// A copy that could not be stored has no arrow, but a reason; an attempt that was never acknowledged has nothing.
#[test]
fn a_copy_that_failed_says_why() {
    let mut figure = two_checkpoints();
    uploaded(&mut figure, "tm-1", "count[0]", 3, 800);
    stored(&mut figure, "tm-1", "count[0]", 3, 800);
    let (subtask, reason) = ("count[0]".to_string(), "no space <left>".to_string());
    figure.event("tm-1", &Event::LocalCopyFailed { subtask, checkpoint: id(3), reason });
    uploaded(&mut figure, "tm-2", "count[1]", 3, 40);
    completed(&mut figure, 3, &["count[0]"]);
    let text = figure.to_text();
    assert!(text.contains("count[0] on tm-1: no local copy: no space <left>") && !text.contains("count[1]"), "{text}");
    assert_eq!(figure.arrows().len(), 2, "{text}");
    let svg = figure.to_svg();
    assert!(svg.contains("no copy:") && svg.matches("url(#to-local)").count() == 1, "only the legend has one: {svg}");
}

/// Nothing has happened: that is a picture, too.
#[test]
fn nothing_is_a_picture_too() {
    let figure = LocalRecoveryFigure::default();
    assert!(figure.arrows().is_empty() && figure.to_text().starts_with("no checkpoint"));
    let svg = figure.to_svg();
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n") && svg.contains("no checkpoint"), "{svg}");
}
