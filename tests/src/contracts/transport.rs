//! Transport: frames whole and in order, a bounded window, ends that can be told apart.

use std::{collections::VecDeque, future::poll_fn, time::Duration};

use bytes::Bytes;
use futures::future::join;
use runtime::platform::{
    Connection, FrameReceiver, Listener, MAX_FRAME_BYTES, NetError, Platform, recv, send, timeout,
};

use super::Stage;

const PATIENCE: Duration = Duration::from_secs(10);

async fn listen(stage: &Stage, at: &Platform, service: &str) -> Box<dyn Listener> {
    at.transport.listen(&(stage.place)(&at.process, service)).await.expect("listens")
}

/// A connection from `here` to `there`: (here's end, there's end).
async fn connected(stage: &Stage, service: &str) -> (Connection, Connection) {
    let mut listener = listen(stage, &stage.there, service).await;
    let address = listener.address();
    let by = stage.here.clock.now() + PATIENCE;
    let (client, server) = join(stage.here.transport.connect(&address, "contract", by), listener.accept()).await;
    (client.expect("connects"), server.expect("accepts"))
}

/// Frame number `n`, of a length that looks arbitrary.
fn frame(n: usize) -> Bytes {
    let length = [0, 1, 5, 300, 4_096, 32_768, 70_001][n % 7] + n % 13;
    Bytes::from_iter((0..length).map(|i| (i * 31 + n) as u8))
}

async fn expect_frames(receiver: &mut dyn FrameReceiver, count: usize) {
    let mut got = VecDeque::new();
    let mut seen = 0;
    while seen < count {
        let max = 1 + seen % 40;
        let n = poll_fn(|cx| receiver.poll_recv(cx, &mut got, max)).await.expect("frames come");
        assert!((1..=max).contains(&n) && got.len() == n, "{n} frames announced, {} given, at most {max}", got.len());
        for received in got.drain(..) {
            assert_eq!(received, frame(seen), "frame {seen}");
            seen += 1;
        }
    }
}

pub async fn frames_arrive_in_order_both_ways(stage: Stage) {
    const FRAMES: usize = 3_000;
    let (client, server) = connected(&stage, "order").await;
    let talk = async |mut end: Connection| {
        let mut queue: VecDeque<Bytes> = (0..FRAMES).map(frame).collect();
        let sending = async {
            poll_fn(|cx| end.sender.poll_send(cx, &mut queue)).await.expect("sends");
            assert!(queue.is_empty(), "ready means that everything was handed over");
        };
        join(sending, expect_frames(&mut *end.receiver, FRAMES)).await;
    };
    join(talk(client), talk(server)).await;
}

pub async fn the_longest_frame_passes_and_a_longer_one_does_not(stage: Stage) {
    let (mut client, mut server) = connected(&stage, "big").await;
    let longest = Bytes::from(vec![7; MAX_FRAME_BYTES]);
    let (sent, received) = join(send(&mut *client.sender, longest.clone()), recv(&mut *server.receiver)).await;
    sent.expect("the longest frame is sent");
    assert_eq!(received.expect("and received"), longest);
    let too_long = send(&mut *client.sender, Bytes::from(vec![7; MAX_FRAME_BYTES + 1])).await;
    assert!(matches!(too_long, Err(NetError::Malformed(_))), "{too_long:?}");
}

pub async fn a_reader_that_sleeps_stops_the_sender(stage: Stage) {
    // Far more than any window.
    const FRAMES: usize = 4_096;
    let (mut client, mut server) = connected(&stage, "window").await;
    let clock = &*stage.here.clock;
    let chunk = Bytes::from(vec![7; 32 << 10]);
    let mut queue: VecDeque<Bytes> = vec![chunk.clone(); FRAMES].into();
    let sent = {
        let sending = poll_fn(|cx| client.sender.poll_send(cx, &mut queue));
        timeout(clock, clock.now() + Duration::from_millis(300), sending).await
    };
    assert!(sent.is_err(), "the window never filled: {sent:?}");
    assert!(queue.len() > FRAMES / 2, "{} of {FRAMES} frames are under way with nobody reading", FRAMES - queue.len());
    let reading = async {
        let mut got = VecDeque::new();
        let mut frames = 0;
        while frames < FRAMES {
            frames += poll_fn(|cx| server.receiver.poll_recv(cx, &mut got, 64)).await.expect("frames come");
            assert!(got.drain(..).all(|f| f == chunk));
        }
    };
    let (sent, ()) = join(poll_fn(|cx| client.sender.poll_send(cx, &mut queue)), reading).await;
    sent.expect("goes on when there is room");
    assert!(queue.is_empty());
}

pub async fn what_was_sent_before_an_orderly_close_arrives(stage: Stage) {
    let (mut client, mut server) = connected(&stage, "close").await;
    let mut queue: VecDeque<Bytes> = (0..20).map(frame).collect();
    poll_fn(|cx| client.sender.poll_send(cx, &mut queue)).await.expect("sends");
    drop(client);
    expect_frames(&mut *server.receiver, 20).await;
    assert_eq!(recv(&mut *server.receiver).await, Err(NetError::Closed));
    assert_eq!(recv(&mut *server.receiver).await, Err(NetError::Closed), "and it stays so");
}

pub async fn one_direction_outlives_the_other(stage: Stage) {
    let (client, mut server) = connected(&stage, "half").await;
    let Connection { sender, mut receiver } = client;
    drop(sender);
    assert_eq!(recv(&mut *server.receiver).await, Err(NetError::Closed));
    send(&mut *server.sender, frame(3)).await.expect("the other direction is open");
    assert_eq!(recv(&mut *receiver).await, Ok(frame(3)));
}

pub async fn sending_to_a_dropped_peer_fails_in_the_end(stage: Stage) {
    let (mut client, server) = connected(&stage, "gone").await;
    drop(server);
    let clock = &*stage.here.clock;
    let by = clock.now() + PATIENCE;
    let error = loop {
        match timeout(clock, by, send(&mut *client.sender, frame(4))).await.expect("fails before long") {
            Ok(()) => clock.sleep(Duration::from_millis(1)).await,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, NetError::Reset | NetError::Closed), "{error:?}");
    assert!(send(&mut *client.sender, frame(4)).await.is_err(), "and it stays so");
}

pub async fn many_connections_share_a_listener(stage: Stage) {
    let mut listener = listen(&stage, &stage.there, "many").await;
    let address = listener.address();
    let by = stage.here.clock.now() + PATIENCE;
    let mut pairs = Vec::new();
    for _ in 0..20 {
        let (client, server) = join(stage.here.transport.connect(&address, "contract", by), listener.accept()).await;
        pairs.push((client.expect("connects"), server.expect("accepts")));
    }
    for (n, (client, _)) in pairs.iter_mut().enumerate() {
        send(&mut *client.sender, frame(n)).await.expect("sends");
    }
    for (n, (_, server)) in pairs.iter_mut().enumerate().rev() {
        assert_eq!(recv(&mut *server.receiver).await, Ok(frame(n)));
    }
}

pub async fn nobody_there_is_refused(stage: Stage) {
    let by = stage.here.clock.now() + PATIENCE;
    let refused = stage.here.transport.connect(&stage.nobody, "contract", by).await.map(|_| ());
    assert_eq!(refused, Err(NetError::Refused));
}

pub async fn silence_ends_at_the_deadline(stage: Stage) {
    let clock = &*stage.here.clock;
    let by = clock.now() + Duration::from_millis(150);
    let silent = stage.here.transport.connect(&stage.silent, "contract", by).await.map(|_| ());
    assert_eq!(silent, Err(NetError::TimedOut));
    assert!(clock.now() >= by && clock.now().since(by) < PATIENCE);
}

pub async fn an_address_is_given_once(stage: Stage) {
    let first = listen(&stage, &stage.there, "once").await;
    let second = stage.there.transport.listen(&first.address()).await.map(|_| ());
    assert_eq!(second, Err(NetError::AddressInUse));
    let address = first.address();
    drop(first);
    // A listener's name is free again soon after it was dropped.
    let clock = &*stage.there.clock;
    let by = clock.now() + PATIENCE;
    while let Err(error) = stage.there.transport.listen(&address).await {
        assert!(error == NetError::AddressInUse && clock.now() < by, "{error:?}");
        clock.sleep(Duration::from_millis(5)).await;
    }
}
