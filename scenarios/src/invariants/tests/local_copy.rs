use runtime::{
    ids::{AllocationId, CheckpointId, SubtaskId, VertexId},
    journal::Event,
    layout::LocalLayout,
};

use crate::invariants::{
    FaultNotice,
    telling::{confirmed, failed, stored},
    testing::Story,
};

/// The plan had its hands on the disk, or on any file there; on another machine it excuses nothing.
#[test]
fn a_disturbed_machine_excuses_its_copies() {
    let file = |machine: &str| FaultNotice::LocalFile { machine: machine.into(), path: "anything".into() };
    let disk = |machine: &str| FaultNotice::Disk { machine: machine.into() };
    for (notice, excused) in
        [(file("machine-1"), true), (disk("machine-1"), true), (file("machine-2"), false), (disk("machine-2"), false)]
    {
        let mut story = Story::begin();
        story.checkpoint(1, &[10, 10]);
        story.fault(&notice);
        stored(&mut story, 1, 1);
        if excused { story.holds() } else { story.breaks("local-copy", "not-whole") }
    }
}

/// Of several copies on a machine the fullest complete one counts, and of it the parts of that subtask and checkpoint alone.
#[test]
fn parts_are_counted_in_one_copy() {
    let at = |allocation, index, checkpoint| {
        let (job, subtask) = (Story::begin().layout().job, SubtaskId { vertex: VertexId(1), index });
        LocalLayout::checkpoint(AllocationId(allocation), job, subtask, CheckpointId(checkpoint))
    };
    for (parts, right) in [(2, true), (1, false), (3, false)] {
        let mut story = Story::begin();
        let files = [
            (at(6, 0, 1), &["manifest", "part-0", "part-1"][..]),
            (at(5, 0, 1), &["manifest", "part-0"]),
            (at(7, 0, 1), &["part-0", "part-1", "part-2"]),
            (at(6, 1, 1), &["manifest", "part-0", "part-1", "part-2"]),
            (at(6, 0, 2), &["manifest", "part-0", "part-1", "part-2"]),
        ];
        for (directory, names) in files {
            names.iter().for_each(|name| story.truth.put_file("machine-1", &format!("{directory}/{name}"), b""));
        }
        stored(&mut story, 1, parts);
        if right { story.holds() } else { story.breaks("local-copy", "not-whole") }
    }
}

/// A copy without parts is complete, too: all of the state lies in the metadata.
#[test]
fn a_copy_of_nothing_is_whole() {
    let mut story = Story::begin();
    story.truth.write_local("machine-1", 1, "manifest", b"");
    stored(&mut story, 1, 0);
    story.holds();
    story.drop_local("machine-1", 1);
    stored(&mut story, 1, 0);
    story.breaks("local-copy", "not-whole");
}

/// The confirmation of an older checkpoint is heard after a newer one has dropped its copy; a copy that another deployment or
/// another slot's release has taken is found all the same, if it was not this subtask's or this process's.
#[test]
fn a_copy_is_kept_for_the_newest_confirmation_of_its_keeper() {
    let subtask = || "fold[0]".to_string();
    let deployed = |process: &'static str, of: &'static str| {
        move |story: &mut Story| {
            let (attempt, task_manager) = (story.next_attempt(), "tm-1".to_string());
            let allocation = AllocationId(5);
            story
                .event(process, Event::TaskDeployed { subtask: of.into(), attempt, task_manager, slot: 0, allocation });
        }
    };
    let released = |task_manager: &'static str| {
        move |story: &mut Story| {
            let (task_manager, allocation) = (task_manager.to_string(), AllocationId(9));
            story.event("tm-1", Event::SlotReleased { task_manager, slot: 0, allocation });
        }
    };
    let discarded = |checkpoint: u64| {
        move |story: &mut Story| {
            let (checkpoint, reason) = (CheckpointId(checkpoint), String::new());
            story.event("tm-1", Event::LocalCopyDiscarded { subtask: "fold[0]".into(), checkpoint, reason });
        }
    };
    let (own, others, process) =
        (deployed("tm-1", "fold[0]"), deployed("tm-1", "fold[7]"), deployed("tm-2", "fold[0]"));
    let (mine, another) = (released("tm-1"), released("tm-2"));
    let (this, that) = (discarded(1), discarded(2));
    let newer = |story: &mut Story| {
        let checkpoint = CheckpointId(2);
        story.event("tm-1", Event::TaskNotifiedComplete { subtask: subtask(), checkpoint });
        story.event("tm-1", Event::LocalCopyConfirmed { subtask: subtask(), checkpoint: CheckpointId(1) });
    };
    let disturbed = |story: &mut Story| story.fault(&FaultNotice::Disk { machine: "machine-2".into() });
    type Act<'a> = &'a dyn Fn(&mut Story);
    let cases: [(Act, bool); 9] = [
        (&own, true),
        (&others, false),
        (&process, false),
        (&mine, true),
        (&another, false),
        (&this, true),
        (&that, false),
        (&newer, true),
        (&disturbed, false),
    ];
    for (number, (meanwhile, right)) in cases.into_iter().enumerate() {
        let mut story = Story::begin();
        story.checkpoint(1, &[10, 10]).local_copy("machine-1", 1);
        stored(&mut story, 1, 1);
        story.drop_local("machine-1", 1);
        meanwhile(&mut story);
        if number != 7 {
            confirmed(&mut story, 1);
        }
        assert_eq!(story.found().is_empty(), right, "case {number}: {:?}", story.found());
    }
}

/// A confirmation of what was never stored says nothing, nor does one from a process without a machine.
#[test]
fn only_a_stored_copy_can_go() {
    let mut story = Story::begin();
    confirmed(&mut story, 1);
    story.holds();
}

/// A process whose clock runs wrong, or did, may fail a snapshot; the clock of another one is no excuse.
#[test]
fn a_clock_of_its_own_excuses_a_snapshot() {
    for (process, excused) in [("tm-1", true), ("tm-2", false)] {
        let mut story = Story::begin();
        story.fault(&FaultNotice::Clock { process: process.into(), wrong: true });
        failed(&mut story);
        if excused { story.holds() } else { story.breaks("local-copy", "snapshot-failed-for-nothing") }
    }
}

/// Where copies are objects in the memory of a process there are no files to look for.
#[test]
fn copies_in_memory_have_no_files() {
    for (local_in_memory, right) in [(true, true), (false, false)] {
        let mut story = Story::configured(|config| config.local_in_memory = local_in_memory);
        story.checkpoint(1, &[10, 10]);
        stored(&mut story, 1, 1);
        confirmed(&mut story, 1);
        if right { story.holds() } else { story.breaks("local-copy", "not-whole") }
    }
}
