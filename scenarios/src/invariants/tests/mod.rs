//! Where each invariant begins to object and where it does not yet: boundaries, excuses, and whom an excuse is for. The stories that
//! show what each is there for stand beside it.

mod assertions;
mod barrier;
mod cadence;
mod deletion;
mod fallback;
mod formats;
mod ground;
mod leadership;
mod liveness;
mod local_copy;
mod memory;
mod output;
mod output_truth;
mod replay;
mod restored;
mod reuse;
mod runtime_formats;
mod slots;
mod suite;
mod superset;
