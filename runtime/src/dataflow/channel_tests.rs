//! Credit, told by both ends of one channel.

use std::{
    collections::VecDeque,
    task::{Context, Waker},
};

use proptest::prelude::*;

use super::{
    channel::*,
    frame,
    test_world::{Wire, pipe},
};
use crate::{ids::CheckpointId, journal::Journal};

const WINDOW: u32 = 100;

fn ends(replaying: bool) -> (OutputChannel, InputChannel, std::sync::Arc<Wire>) {
    let (near, far, wire) = pipe();
    let output = OutputChannel::new("a->b".into(), "tm-1".into(), near, WINDOW);
    let grants = Grants { window: WINDOW, replaying, unlimited: false };
    (output, InputChannel::new("a->b".into(), 0, far, grants), wire)
}

fn context() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

fn turn(output: &mut OutputChannel, input: &mut InputChannel) {
    let journal = Journal::new("tm-1", 0, None);
    input.poll(&mut context()).expect("a whole channel");
    output.poll(&mut context(), &journal).expect("a whole channel");
    input.poll(&mut context()).expect("a whole channel");
}

/// Consumes what is at the front; the payload length of it, None if nothing is there.
fn consume(input: &mut InputChannel) -> Option<usize> {
    let front = input.front()?;
    let length = input.payload().len();
    match front {
        Front::Data(records) => input.consume(length, records).expect("a whole frame"),
        Front::Barrier(_) | Front::ReplayMarker(_) | Front::EventTime(_) => input.pop_control(),
    }
    Some(length)
}

#[test]
fn a_payload_larger_than_the_window_goes_when_the_window_is_free() {
    let (mut output, mut input, _) = ends(false);
    output.push_data(1, &[0; 10]);
    output.push_data(1, &[1; 250]);
    turn(&mut output, &mut input);
    assert_eq!(consume(&mut input), Some(10));
    assert_eq!(consume(&mut input), None, "10 bytes are in flight as far as the producer knows");
    input.grant_rest();
    turn(&mut output, &mut input);
    turn(&mut output, &mut input);
    assert_eq!(consume(&mut input), Some(250));
    output.push_data(1, &[2; 90]);
    turn(&mut output, &mut input);
    turn(&mut output, &mut input);
    assert_eq!(consume(&mut input), Some(90));
}

#[test]
fn a_barrier_needs_no_credit_but_keeps_its_place() {
    let (mut output, mut input, _) = ends(false);
    output.push_data(1, &[0; 90]);
    output.push_barrier(CheckpointId(1), None);
    output.push_data(1, &[0; 90]);
    output.push_barrier(CheckpointId(2), None);
    turn(&mut output, &mut input);
    assert_eq!(consume(&mut input), Some(90));
    assert_eq!(input.front(), Some(Front::Barrier(CheckpointId(1))));
    assert_eq!(consume(&mut input), Some(0));
    assert_eq!(input.front(), None);
    turn(&mut output, &mut input);
    turn(&mut output, &mut input);
    assert_eq!(consume(&mut input), Some(90));
    assert_eq!(input.front(), Some(Front::Barrier(CheckpointId(2))));
}

#[test]
fn who_sends_beyond_its_credit_is_found_out() {
    let (near, far, _) = pipe();
    let grants = Grants { window: WINDOW, replaying: false, unlimited: false };
    let mut input = InputChannel::new("a->b".into(), 0, far, grants);
    let mut sender = near.sender;
    let mut frames = VecDeque::from([frame::encode_data(1, &[0; 60]), frame::encode_data(1, &[0; 60])]);
    assert!(sender.poll_send(&mut context(), &mut frames).is_ready());
    let what = "60 bytes with a credit of 40".to_string();
    assert_eq!(input.poll(&mut context()), Err(ChannelError::Protocol { channel: "a->b".into(), what }));
}

#[test]
fn bytes_left_behind_the_last_record_are_an_error() {
    let (mut output, mut input, _) = ends(false);
    output.push_data(2, &[0; 10]);
    turn(&mut output, &mut input);
    assert_eq!(input.front(), Some(Front::Data(2)));
    assert_eq!(input.consume(4, 1), Ok(()));
    assert!(input.consume(3, 1).is_err());
    assert!(input.consume(1, 0).is_err());
    assert!(input.consume(100, 1).is_err());
}

#[test]
fn a_replay_doubles_the_window_and_gives_it_back() {
    let (mut output, mut input, wire) = ends(true);
    for _ in 0..10 {
        output.push_data(1, &[0; 50]);
    }
    turn(&mut output, &mut input);
    assert_eq!(wire.peak_in_flight(), 200);
    input.end_replay();
    while output.has_frames() {
        while consume(&mut input).is_some() {}
        input.grant_rest();
        turn(&mut output, &mut input);
    }
    for _ in 0..10 {
        output.push_data(1, &[0; 50]);
    }
    while consume(&mut input).is_some() {}
    input.grant_rest();
    turn(&mut output, &mut input);
    turn(&mut output, &mut input);
    let mut in_flight = 0;
    while let Some(length) = consume(&mut input) {
        in_flight += length;
    }
    assert_eq!(in_flight, 100);
}

proptest! {
    /// R141: whatever the sizes and the consumer's pace, everything arrives in order, and the window is kept.
    #[test]
    fn all_frames_arrive_within_the_window(
        frames in proptest::collection::vec(proptest::option::weighted(0.8, 0..=WINDOW as usize), 1..60),
        pace in proptest::collection::vec(0..5usize, 1..20),
    ) {
        let (mut output, mut input, wire) = ends(false);
        for (n, frame) in (0u64..).zip(&frames) {
            match frame {
                Some(length) => output.push_data(1, &vec![0; *length]),
                None => output.push_barrier(CheckpointId(n), None),
            }
        }
        let mut arrived = Vec::new();
        let mut idle = 0;
        for take in pace.iter().cycle() {
            turn(&mut output, &mut input);
            prop_assert!(wire.peak_in_flight() <= WINDOW as usize);
            for _ in 0..*take {
                match input.front() {
                    Some(Front::Data(_)) => arrived.push(consume(&mut input)),
                    Some(_) => { consume(&mut input); arrived.push(None); }
                    None => input.grant_rest(),
                }
            }
            if arrived.len() == frames.len() {
                break;
            }
            idle += 1;
            prop_assert!(idle < 10_000 || pace.iter().all(|p| *p == 0), "stuck with {} of {}", arrived.len(), frames.len());
            if pace.iter().all(|p| *p == 0) {
                return Ok(());
            }
        }
        prop_assert_eq!(arrived, frames);
    }
}
