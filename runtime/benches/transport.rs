//! How fast frames go from one subtask's thread to another's over loopback TCP: `cargo bench -p runtime --bench transport`.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "measures the real world")]

use std::{collections::VecDeque, future::poll_fn, time::Instant};

use bytes::Bytes;
use runtime::platform::{
    Address, Mono,
    real::{RealConfig, RealWorld},
};

fn main() {
    println!("{:>10} {:>10} {:>12} {:>12}", "frame", "frames", "frames/s", "MiB/s");
    for (frame_bytes, frames) in [(64, 4_000_000), (1 << 10, 1_000_000), (32 << 10, 200_000), (1 << 20, 5_000)] {
        let seconds = transfer(frame_bytes, frames);
        let per_second = frames as f64 / seconds;
        let mebibytes = per_second * frame_bytes as f64 / f64::from(1 << 20);
        println!("{frame_bytes:>10} {frames:>10} {per_second:>12.0} {mebibytes:>12.0}");
    }
}

/// Seconds for `frames` frames from one worker to another.
fn transfer(frame_bytes: usize, frames: usize) -> f64 {
    let root = tempfile::tempdir().expect("a directory");
    let world = RealWorld::new("bench", RealConfig::below(root.path(), "bench")).expect("the real world");
    let platform = world.platform();
    world.block_on(async {
        let mut listener = platform.transport.listen(&Address("127.0.0.1:0".into())).await.expect("listens");
        let address = listener.address();
        let (client, server) =
            futures::join!(platform.transport.connect(&address, "bench", Mono::FAR_FUTURE), listener.accept());
        let (mut sender, mut receiver) = (client.expect("connects").sender, server.expect("accepts").receiver);
        let begin = Instant::now();
        let sending = platform.spawner.worker(
            "send[0]",
            Box::new(move || {
                Box::pin(async move {
                    let frame = Bytes::from(vec![7; frame_bytes]);
                    let mut queue = VecDeque::new();
                    let mut left = frames;
                    while left > 0 {
                        let batch = left.min(32);
                        queue.extend(std::iter::repeat_n(frame.clone(), batch));
                        left -= batch;
                        poll_fn(|cx| sender.poll_send(cx, &mut queue)).await.expect("sends");
                    }
                })
            }),
        );
        let receiving = platform.spawner.worker(
            "receive[0]",
            Box::new(move || {
                Box::pin(async move {
                    let mut got = VecDeque::new();
                    let mut left = frames;
                    while left > 0 {
                        left -= poll_fn(|cx| receiver.poll_recv(cx, &mut got, 64)).await.expect("receives");
                        got.clear();
                    }
                })
            }),
        );
        receiving.await;
        let seconds = begin.elapsed().as_secs_f64();
        sending.await;
        seconds
    })
}
