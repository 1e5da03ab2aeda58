//! What every world must keep of the seam's promises, written once and run in both the real and the simulated one.
//!
//! A body gets a [`Stage`] with two processes on two machines and panics where a promise is broken. It may use only the seam.

use runtime::platform::{Address, Platform};

pub mod clock;
pub mod disk;
pub mod entropy;
pub mod input;
pub mod spawner;
pub mod store;
pub mod transport;

/// The content of [`Stage::input`].
pub const INPUT: &[u8] = b"line one\nline two\nline three\n";

/// Two processes that share a network and a primary storage, each on a machine of its own.
pub struct Stage {
    pub here: Platform,
    pub there: Platform,
    /// Where a process may listen for a service. The real world picks any port.
    pub place: fn(process: &str, service: &str) -> Address,
    /// Nobody listens there; its machine says so.
    pub nobody: Address,
    /// Nothing answers from there, not even with a refusal.
    pub silent: Address,
    /// The path of an input file that holds [`INPUT`].
    pub input: String,
    /// The path of an input file that is not there.
    pub no_input: String,
}

/// Calls a macro with every contract: `module::body`, names unique across modules.
#[macro_export]
macro_rules! every_contract {
    ($callback:ident) => {
        $callback! {
            clock::sleeps_not_less_than_asked,
            clock::a_passed_deadline_is_ready,
            clock::timers_fire_in_order_of_their_deadlines,
            clock::dropped_and_endless_timers_bother_nobody,
            clock::timeout_gives_the_result_or_gives_up,
            spawner::control_tasks_end_and_say_how,
            spawner::a_detached_task_goes_on,
            spawner::a_worker_runs_a_body_bound_to_its_thread,
            spawner::a_workers_panic_is_its_own,
            spawner::an_aborted_worker_stops_and_is_torn_down,
            spawner::tasks_wake_each_other,
            spawner::native_calls_return_values_and_panics,
            transport::frames_arrive_in_order_both_ways,
            transport::the_longest_frame_passes_and_a_longer_one_does_not,
            transport::a_reader_that_sleeps_stops_the_sender,
            transport::what_was_sent_before_an_orderly_close_arrives,
            transport::one_direction_outlives_the_other,
            transport::sending_to_a_dropped_peer_fails_in_the_end,
            transport::many_connections_share_a_listener,
            transport::nobody_there_is_refused,
            transport::silence_ends_at_the_deadline,
            transport::an_address_is_given_once,
            disk::a_file_is_created_once,
            disk::appended_bytes_are_read_back,
            disk::reading_past_the_end_fails,
            disk::missing_files_are_named,
            disk::rename_replaces,
            disk::a_link_shares_the_content,
            disk::listing_is_sorted_and_shallow,
            disk::a_tree_is_removed_with_all_it_holds,
            disk::machines_do_not_share_a_disk,
            disk::native_files_are_adopted_and_come_back,
            disk::a_failed_adoption_leaves_nothing,
            disk::native_files_are_read_and_written_in_pieces,
            store::an_object_is_created_once,
            store::parts_are_concatenated,
            store::ranges_are_cut_off_at_the_end,
            store::what_is_not_there_is_absent,
            store::listing_takes_a_string_prefix_and_sorts,
            store::deleting_is_idempotent,
            store::of_racing_creates_one_wins,
            store::all_processes_see_one_store,
            store::an_upload_in_pieces_appears_whole,
            store::an_upload_in_pieces_only_creates,
            store::an_unfinished_upload_can_be_discarded,
            input::inputs_are_read_by_range,
            entropy::draws_differ,
        }
    };
}
