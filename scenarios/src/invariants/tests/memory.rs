use runtime::{ids::CheckpointId, journal::Event};

use crate::invariants::testing::Story;

const WINDOW: u64 = 256 << 10;

/// The most that may be in flight: window (or four buffers, if that is more), half of it in headers, and a little.
fn bound(payload: u64) -> u64 {
    payload + payload / 2 + 4096
}

fn replay(replay_to: Option<CheckpointId>) -> Event {
    let attempt = Story::begin().next_attempt();
    let newest = Some(CheckpointId(1));
    Event::RestoreChosen { job: "job".into(), checkpoint: newest, newest, replay_to, attempt }
}

/// A replay doubles what may be in flight, large buffers may take more than the window, and not a byte is given beyond that.
#[test]
fn the_bound_is_exact() {
    for (buffer, replayed, payload) in [
        (32 << 10, false, WINDOW),
        (32 << 10, true, 2 * WINDOW),
        (100 << 10, false, 400 << 10),
        (100 << 10, true, 2 * WINDOW),
    ] {
        for (bytes, good) in [(bound(payload), true), (bound(payload) + 1, false)] {
            let mut story = Story::configured(|config| config.buffer_bytes = buffer);
            if replayed {
                story.event("jobmanager", replay(Some(CheckpointId(2))));
            } else {
                story.event("jobmanager", replay(None));
            }
            let before = story.found().len();
            story.truth.set_channel("read[0]->fold[1]", bytes);
            // It is seen at the next checkpoint, not only at the end.
            story.event("jobmanager", Event::CheckpointCompleted { checkpoint: CheckpointId(3), sequence: 9 });
            let found = story.found().iter().any(|(invariant, ..)| *invariant == "bounded-in-flight");
            assert_eq!(found, !good, "{buffer} {replayed} {bytes}: {:?}, {before} before", story.found());
        }
    }
}

/// Connections that carry no records have no credit.
#[test]
fn only_channels_of_subtasks_are_bounded() {
    let mut story = Story::begin();
    for channel in ["jobmanager->tm-1", "read[0]->tm-1", "tm-1->fold[0]", "fold[0]"] {
        story.truth.set_channel(channel, 1 << 30);
    }
    story.end(None);
    story.holds_but_unfinished();
}
