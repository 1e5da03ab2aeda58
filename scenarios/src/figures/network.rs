//! Messages through the simulated transport, beside those through madsim's own endpoints, on one thread in one run.
//!
//! A client keeps some requests in flight towards a server, which answers each. Weir's transport serialises nothing here
//! either, but it does what madsim's endpoints do not: order, bandwidth, a window and the news that opens it again, latencies
//! below a millisecond, and entries in a queue that can be cancelled. The bare side does what madsim's RPC does for a call (a tag of
//! its own for each answer, a task for each request), without the feature that brings an abandoned dependency.

use std::{collections::VecDeque, future::poll_fn, net::SocketAddr, rc::Rc, time::Duration};

use bytes::Bytes;
use clap::Args;
use futures::{FutureExt, channel::oneshot};
use madsim::{net::Endpoint, runtime::Runtime, task::spawn};
use runtime::platform::{Address, Connection, Platform};
use sim::{NetworkConfig, World, WorldConfig};

use super::{
    Rounds,
    usage::{Meter, load},
};

#[derive(Args)]
pub struct Options {
    /// Requests of each round; each is two messages.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    requests: u64,
    /// Requests under way at a time.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    in_flight: u64,
    /// Bytes of a message.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    bytes: u32,
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

pub fn measure(options: &Options) -> Result<(), String> {
    println!(
        "network  {} requests of {} bytes, {} in flight, {}",
        options.requests,
        options.bytes,
        options.in_flight,
        load()
    );
    let (mut weir, mut bare, mut ratio) = (Rounds::default(), Rounds::default(), Rounds::default());
    for round in 0..options.rounds {
        let meter = Meter::start();
        through_weir(u64::from(round), options)?;
        let ours = meter.read();
        let meter = Meter::start();
        through_madsim(u64::from(round), options)?;
        let theirs = meter.read();
        let messages = 2.0 * options.requests as f64;
        weir.add(messages / ours.processor_seconds.max(0.01));
        bare.add(messages / theirs.processor_seconds.max(0.01));
        ratio.add(theirs.processor_seconds / ours.processor_seconds.max(0.01));
    }
    println!("  messages/s, simulated transport    {weir}");
    println!("  messages/s, bare madsim endpoints  {bare}");
    println!("  ratio, by processor time           {ratio}");
    Ok(())
}

/// Receives what has come, at least one frame.
async fn receive(connection: &mut Connection, into: &mut VecDeque<Bytes>) -> Result<(), String> {
    poll_fn(|cx| connection.receiver.poll_recv(cx, into, 1_024)).await.map_err(|error| error.to_string())?;
    Ok(())
}

async fn hand_over(connection: &mut Connection, frames: &mut VecDeque<Bytes>) -> Result<(), String> {
    poll_fn(|cx| connection.sender.poll_send(cx, frames)).await.map_err(|error| error.to_string())?;
    Ok(())
}

async fn serve(platform: Platform) {
    let address = Address("server/echo".to_string());
    let Ok(mut listener) = platform.transport.listen(&address).await else { return };
    let Ok(mut connection) = listener.accept().await else { return };
    let mut frames = VecDeque::new();
    while receive(&mut connection, &mut frames).await.is_ok() {
        if hand_over(&mut connection, &mut frames).await.is_err() {
            return;
        }
    }
}

/// Sends requests, as many as may be under way, and counts the answers.
async fn call(platform: Platform, requests: u64, in_flight: u64, bytes: usize) -> Result<u64, String> {
    let by = platform.clock.now() + Duration::from_secs(10);
    let to = Address("server/echo".to_string());
    let mut connection = platform.transport.connect(&to, "calls", by).await.map_err(|error| error.to_string())?;
    let request = Bytes::from(vec![7; bytes]);
    let (mut sent, mut answered) = (0, 0);
    let (mut out, mut answers) = (VecDeque::new(), VecDeque::new());
    while answered < requests {
        while sent < requests && sent - answered < in_flight {
            out.push_back(request.clone());
            sent += 1;
        }
        hand_over(&mut connection, &mut out).await?;
        receive(&mut connection, &mut answers).await?;
        answered += answers.drain(..).filter(|answer| answer.len() == bytes).count() as u64;
    }
    Ok(answered)
}

fn through_weir(seed: u64, options: &Options) -> Result<(), String> {
    let (requests, in_flight, bytes) = (options.requests, options.in_flight, options.bytes as usize);
    // A window that holds all of them, as madsim has none.
    let window_bytes = (options.in_flight * (u64::from(options.bytes) + 64)).max(1 << 20);
    let network = NetworkConfig { window_bytes, ..NetworkConfig::default() };
    let time_limit = Duration::from_secs(100_000);
    let outcome = sim::run(WorldConfig { seed, network, time_limit, ..WorldConfig::default() }, move |world| {
        in_weir(world, requests, in_flight, bytes).boxed_local()
    });
    let answered = outcome.value.map_err(|failure| failure.to_string())??;
    if answered == requests { Ok(()) } else { Err(format!("{answered} of {requests} requests were answered")) }
}

async fn in_weir(world: World, requests: u64, in_flight: u64, bytes: usize) -> Result<u64, String> {
    let (tell, told) = oneshot::channel();
    let tell = Rc::new(std::cell::RefCell::new(Some(tell)));
    for process in ["server", "client"] {
        world.add_machine(&format!("machine-of-{process}"));
    }
    world.add_process("server", "machine-of-server", Rc::new(|platform| serve(platform).boxed()));
    let client = move |platform: Platform| {
        let tell = tell.borrow_mut().take();
        async move {
            let answered = call(platform, requests, in_flight, bytes).await;
            if let Some(tell) = tell {
                // The harness waits for it.
                let _ = tell.send(answered);
            }
        }
        .boxed()
    };
    world.add_process("client", "machine-of-client", Rc::new(client));
    world.start("server");
    world.sleep(Duration::from_millis(10)).await;
    world.start("client");
    told.await.unwrap_or_else(|_| Err("the client died".to_string()))
}

const REQUEST_TAG: u64 = 1;

fn through_madsim(seed: u64, options: &Options) -> Result<(), String> {
    let (requests, in_flight, bytes) = (options.requests, options.in_flight, options.bytes as usize);
    let runtime = Runtime::with_seed_and_config(seed, madsim::Config::default());
    let (server, client): (SocketAddr, SocketAddr) = (([10, 0, 0, 1], 1).into(), ([10, 0, 0, 2], 1).into());
    let node = runtime.create_node().ip(server.ip()).build();
    node.spawn(async move {
        let endpoint = Endpoint::bind(server).await.expect("a free address");
        loop {
            let (message, from) = endpoint.recv_from_raw(REQUEST_TAG).await.expect("a request");
            let (tag, request) = *message.downcast::<(u64, Bytes)>().expect("a request of the client's");
            let endpoint = endpoint.clone();
            spawn(async move { endpoint.send_to_raw(from, tag, Box::new(request)).await.expect("sent") });
        }
    });
    let node = runtime.create_node().ip(client.ip()).build();
    let client = node.spawn(async move {
        let endpoint = Endpoint::bind(client).await.expect("a free address");
        madsim::time::sleep(Duration::from_millis(100)).await;
        let callers = (0..in_flight).map(|caller| {
            let endpoint = endpoint.clone();
            spawn(async move {
                let mut answered = 0;
                for number in (caller..requests).step_by(usize::try_from(in_flight).expect("checked by clap")) {
                    let request = Bytes::from(vec![7; bytes]);
                    let tag = number + REQUEST_TAG + 1;
                    endpoint.send_to_raw(server, REQUEST_TAG, Box::new((tag, request))).await.expect("sent");
                    let (answer, _) = endpoint.recv_from_raw(tag).await.expect("an answer");
                    let answer = answer.downcast::<Bytes>().expect("what was sent");
                    answered += u64::from(answer.len() == bytes);
                }
                answered
            })
        });
        let mut answered = 0;
        for caller in callers.collect::<Vec<_>>() {
            answered += caller.await.expect("a caller");
        }
        answered
    });
    let answered = runtime.block_on(client).map_err(|error| error.to_string())?;
    if answered == requests { Ok(()) } else { Err(format!("{answered} of {requests} requests were answered")) }
}
