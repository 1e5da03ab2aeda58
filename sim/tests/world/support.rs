//! What the tests share.

use std::{
    future::Future,
    rc::Rc,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures::future::FutureExt;
use runtime::{
    journal::Event,
    platform::{Address, Connection, NetError, ObjectName, Platform, RelPath, recv, send},
};
use sim::{Entry, World, WorldConfig};

/// Runs `main` in a default world and gives its value.
pub fn in_world<T: Send + 'static, F: Future<Output = T> + 'static>(
    seed: u64,
    main: impl FnOnce(World) -> F + Send + 'static,
) -> T {
    with_config(WorldConfig { seed, ..WorldConfig::default() }, main)
}

pub fn with_config<T: Send + 'static, F: Future<Output = T> + 'static>(
    config: WorldConfig,
    main: impl FnOnce(World) -> F + Send + 'static,
) -> T {
    let outcome = sim::run(config, move |world| main(world).boxed_local());
    outcome.value.unwrap_or_else(|failure| panic!("{failure}"))
}

/// The program of a process.
pub fn program<F: Future<Output = ()> + Send + 'static>(body: impl Fn(Platform) -> F + 'static) -> Entry {
    Rc::new(move |platform| body(platform).boxed())
}

/// A process on a machine of its own, started.
pub fn launch<F: Future<Output = ()> + Send + 'static>(
    world: &World,
    name: &str,
    body: impl Fn(Platform) -> F + 'static,
) {
    let machine = machine(name);
    world.add_machine(&machine);
    world.add_process(name, &machine, program(body));
    assert!(world.start(name));
}

pub fn machine(process: &str) -> String {
    format!("machine-of-{process}")
}

/// What processes tell the test.
#[derive(Clone, Default)]
pub struct Notes(Arc<Mutex<Vec<String>>>);

impl Notes {
    pub fn add(&self, note: impl Into<String>) {
        self.0.lock().expect("notes").push(note.into());
    }

    pub fn all(&self) -> Vec<String> {
        self.0.lock().expect("notes").clone()
    }
}

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub fn path(text: &str) -> RelPath {
    RelPath::new(text).expect("a plain path")
}

pub fn object(text: &str) -> ObjectName {
    ObjectName::new(text).expect("a plain name")
}

pub fn at(text: &str) -> Address {
    Address(text.to_string())
}

/// Something to see in the journal.
pub fn mark(platform: &Platform, text: &str) {
    platform.journal.emit(Event::ProcessStarted { process: text.to_string() });
}

pub fn is_mark(event: &Event, text: &str) -> bool {
    matches!(event, Event::ProcessStarted { process } if process == text)
}

pub async fn dial(platform: &Platform, to: &str, label: &str, patience: Duration) -> Result<Connection, NetError> {
    platform.transport.connect(&at(to), label, platform.clock.now() + patience).await
}

/// A server that notes every frame it reads, and how the stream ended.
pub fn note_frames(notes: Notes) -> impl Fn(Platform) -> futures::future::BoxFuture<'static, ()> {
    move |platform| {
        let notes = notes.clone();
        async move {
            let address = at(&format!("{}/data", platform.process));
            let mut listener = platform.transport.listen(&address).await.expect("listen");
            loop {
                let mut connection = listener.accept().await.expect("accept");
                let notes = notes.clone();
                platform.spawner.control(
                    "reader",
                    async move {
                        loop {
                            match recv(connection.receiver.as_mut()).await {
                                Ok(frame) => notes.add(String::from_utf8_lossy(&frame)),
                                Err(error) => return notes.add(format!("end: {error}")),
                            }
                        }
                    }
                    .boxed(),
                );
            }
        }
        .boxed()
    }
}

pub async fn say(connection: &mut Connection, text: &str) -> Result<(), NetError> {
    send(connection.sender.as_mut(), Bytes::copy_from_slice(text.as_bytes())).await
}
