//! Identities. Each is a type of its own, so that a subtask index can never be taken for an attempt number.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
        impl $name {
            /// The one after this.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }
    };
}

number_id!(
    /// Numbers checkpoints and savepoints of a job; strictly increasing over the whole life of the job. The first is 1.
    CheckpointId(u64), ""
);
number_id!(
    /// Numbers the leaders of a job; a higher epoch fences every lower one. The first is 1.
    LeaderEpoch(u64), ""
);
number_id!(
    /// Numbers the executions of a job under one leader; each restart has a new one. The first is 1.
    Execution(u32), ""
);
number_id!(
    /// A vertex of the execution graph (a chain of operators), by position in topological order.
    VertexId(u32), "v"
);
number_id!(
    /// An edge of the execution graph, by position.
    EdgeId(u32), "e"
);
number_id!(
    /// A group of keys; the unit of state redistribution (Flink `KeyGroupRangeAssignment`).
    KeyGroup(u16), ""
);

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(pub u128);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:032x})"), self.0)
            }
        }
        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.to_string()
            }
        }
        impl TryFrom<String> for $name {
            type Error = String;
            fn try_from(s: String) -> Result<Self, String> {
                if s.len() != 32 {
                    return Err(format!(concat!(stringify!($name), ": 32 hexadecimal digits expected, got {:?}"), s));
                }
                u128::from_str_radix(&s, 16)
                    .map($name)
                    .map_err(|_| format!(concat!(stringify!($name), ": 32 hexadecimal digits expected, got {:?}"), s))
            }
        }
    };
}

hex_id!(
    /// A job, for its whole life.
    JobId
);
hex_id!(
    /// One allocation of a slot to a job. Local state belongs to it (Flink `AllocationID`).
    AllocationId
);

hex_id!(
    /// One working store of keyed state, from its creation to its end (Flink's backend identifier). A shared file is the same
    /// file only within one.
    BackendId
);

/// One parallel instance of a vertex.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SubtaskId {
    pub vertex: VertexId,
    pub index: u32,
}

impl fmt::Display for SubtaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.vertex, self.index)
    }
}

/// What one slot holds: subtask `index` of every vertex of a slot sharing group (Flink `ExecutionSlotSharingGroup`). Of another
/// parallelism it is another one: it holds other key groups.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SharedSlot {
    /// The slot sharing group, numbered in the order in which the graph first names them.
    pub group: u32,
    pub index: u32,
    /// How many of them the group has: the highest parallelism among its vertices.
    pub parallelism: u32,
}

impl fmt::Display for SharedSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.group, self.index, self.parallelism)
    }
}

impl fmt::Debug for SharedSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One execution of all the job's subtasks: which leader started it, and which of its executions. Ordered: a later attempt
/// is greater, whoever started it. All messages of an older attempt are ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttemptId {
    pub leader: LeaderEpoch,
    pub execution: Execution,
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.leader, self.execution)
    }
}

/// The stable name of an operator across versions of a job (Flink `uid`). State is found by it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OperatorUid(pub String);

impl fmt::Display for OperatorUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A split of a replayable source, by its stable name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SplitId(pub String);

impl fmt::Display for SplitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An inclusive range of key groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyGroupRange {
    pub first: KeyGroup,
    pub last: KeyGroup,
}

impl KeyGroupRange {
    pub fn contains(self, group: KeyGroup) -> bool {
        self.first <= group && group <= self.last
    }

    pub fn iter(self) -> impl Iterator<Item = KeyGroup> {
        (self.first.0..=self.last.0).map(KeyGroup)
    }

    /// How many key groups; never zero.
    pub fn count(self) -> u32 {
        u32::from(self.last.0) - u32::from(self.first.0) + 1
    }
}

impl fmt::Display for KeyGroupRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.first, self.last)
    }
}
