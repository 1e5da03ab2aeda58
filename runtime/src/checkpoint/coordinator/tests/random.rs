//! Random sequences of events.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Wait(u16),
    Ack { checkpoint: u8, subtask: u8 },
    AckAll(u8),
    StrayAck { id: u8, subtask: u8, older: bool },
    RepeatAck(u8),
    Decline(u8),
    Metadata(bool),
    Append(bool),
    Commit,
    Ids(bool),
    Exhausted,
    TriggerNow,
    Restart,
    Stop,
    Savepoint(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (1u16..300).prop_map(Step::Wait),
        4 => (any::<u8>(), any::<u8>()).prop_map(|(checkpoint, subtask)| Step::Ack { checkpoint, subtask }),
        6 => any::<u8>().prop_map(Step::AckAll),
        1 => (any::<u8>(), any::<u8>(), any::<bool>()).prop_map(|(id, subtask, older)| Step::StrayAck { id, subtask, older }),
        1 => any::<u8>().prop_map(Step::RepeatAck),
        1 => any::<u8>().prop_map(Step::Decline),
        6 => prop_oneof![4 => Just(true), 1 => Just(false)].prop_map(Step::Metadata),
        6 => prop_oneof![4 => Just(true), 1 => Just(false)].prop_map(Step::Append),
        6 => Just(Step::Commit),
        5 => prop_oneof![4 => Just(true), 1 => Just(false)].prop_map(Step::Ids),
        1 => Just(Step::Exhausted),
        1 => Just(Step::TriggerNow),
        1 => Just(Step::Restart),
        1 => Just(Step::Stop),
        2 => prop_oneof![5 => Just(false), 1 => Just(true)].prop_map(Step::Savepoint),
    ];
    proptest::collection::vec(step, 1..200)
}

impl Cluster {
    fn nth_open(&self, n: u8) -> Option<CheckpointId> {
        let waiting: Vec<_> = self.open.iter().filter(|(_, a)| a.len() < subtasks().len()).map(|(id, _)| *id).collect();
        (!waiting.is_empty()).then(|| waiting[n as usize % waiting.len()])
    }

    fn step(&mut self, step: &Step) {
        if self.stopped_at.is_some() {
            // The job has ended.
            return;
        }
        match step {
            Step::Wait(ms) => self.wait(u32::from(*ms) * MS),
            Step::Ack { checkpoint, subtask } => {
                let subtask = subtasks()[*subtask as usize % subtasks().len()];
                if let Some(id) = self.nth_open(*checkpoint)
                    && !self.open[&id].contains(&subtask)
                {
                    self.ack(id, subtask, self.attempt());
                }
            }
            Step::AckAll(n) => {
                if let Some(id) = self.nth_open(*n) {
                    for subtask in subtasks() {
                        if self.open.get(&id).is_some_and(|acked| !acked.contains(&subtask)) {
                            self.ack(id, subtask, self.attempt());
                        }
                    }
                }
            }
            Step::StrayAck { id, subtask, older } => {
                // From a subtask that never acknowledged this one, or of an older execution.
                let (id, subtask) =
                    (CheckpointId(u64::from(*id) % 20 + 1), subtasks()[*subtask as usize % subtasks().len()]);
                let execution = Execution(if *older { self.execution.saturating_sub(1) } else { self.execution });
                let attempt = AttemptId { leader: LeaderEpoch(1), execution };
                let known = self.acks.iter().any(|a| (a.checkpoint, a.subtask, a.attempt) == (id, subtask, attempt));
                if !known && !self.open.contains_key(&id) && !self.completed.contains(&id) && id.0 <= self.last_id {
                    self.ack(id, subtask, attempt);
                }
            }
            Step::RepeatAck(n) => {
                if !self.acks.is_empty() {
                    let ack = self.acks[*n as usize % self.acks.len()].clone();
                    self.send(Input::Ack(Box::new(ack)));
                }
            }
            Step::Decline(n) => {
                if let Some(checkpoint) = self.nth_open(*n) {
                    self.send(Input::Decline { subtask: subtasks()[0], checkpoint, reason: "no".into() });
                }
            }
            Step::Metadata(ok) => drop(self.metadata(*ok)),
            Step::Append(ok) => drop(self.append(*ok)),
            Step::Commit => drop(self.commit()),
            Step::Ids(ok) if self.ids_wanted => {
                if *ok {
                    self.grant();
                } else {
                    self.ids_wanted = false;
                    self.send(Input::IdsUnavailable { reason: "store is down".into() });
                }
            }
            Step::Ids(_) => {}
            Step::Exhausted if self.coordinator.running().is_some() => {
                self.exhausted = true;
                self.send(Input::AllSourcesExhausted);
            }
            Step::Exhausted => {}
            Step::TriggerNow => {
                self.requested |= self.coordinator.running().is_some();
                self.send(Input::TriggerNow);
            }
            Step::Restart => {
                self.stop();
                if !self.coordinator.is_finalizing() {
                    self.start();
                }
            }
            Step::Stop => self.stop(),
            Step::Savepoint(stop) => drop(self.savepoint(*stop)),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    /// R182. Whatever happens in whatever order: ids strictly increase; nothing completes twice, or aborted, or without an
    /// acknowledgement; concurrency, interval and pause are kept; every object is discarded once or retained; an entry
    /// says exactly what its epoch put out. Savepoints in between wait for nothing, are each answered once, and what they wrote
    /// stays for ever or is gone.
    #[test]
    fn nothing_that_must_hold_is_broken(steps in steps(), max_concurrent in 1u32..4, retained in 1u32..4,
                                        tolerable in proptest::option::of(0u32..3),
                                        incremental in any::<bool>()) {
        let config = CoordinatorConfig { max_concurrent, retained, tolerable_failures: tolerable, ..config() };
        let mut cluster = running(config);
        cluster.incremental = incremental;
        for step in &steps {
            cluster.step(step);
        }
        cluster.check_nothing_leaks();
    }
}
