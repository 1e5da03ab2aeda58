//! A process's view of primary storage.

use std::{ops::Range, rc::Rc};

use bytes::Bytes;
use rand::RngExt;
use runtime::platform::{Fut, Mono, ObjectMeta, ObjectName, PrimaryStorage, StoreError, Upload};

use crate::{
    completion::Completion,
    config::{Modelled, draw},
    event_queue::EventKey,
    local::{Local, boxed},
    process::Incarnation,
    store::{Request, SimStore, StoreFaultKind, StoreOperation},
    time::{SimTime, in_blocks, transfer_nanos},
    world::World,
};

pub(crate) struct SimPrimary(pub Local<Rc<Incarnation>>);

/// What a request asks for.
struct Asked {
    operation: StoreOperation,
    /// The object's name, or the prefix listed.
    name: String,
    upload_bytes: u64,
    by: Mono,
}

/// Takes the timer of a client's deadline back.
struct Deadline(World, EventKey);

impl Drop for Deadline {
    fn drop(&mut self) {
        drop(self.0.queue().cancel(self.1));
    }
}

/// The connection broke, or nothing came: what the client knows then.
fn in_the_dark(operation: StoreOperation, why: &str) -> StoreError {
    if operation.changes_something() { StoreError::Ambiguous } else { StoreError::Unavailable(why.to_string()) }
}

impl SimPrimary {
    /// Sends a request. `effect` happens when it arrives and also says how many bytes travel back.
    async fn request<T: 'static>(
        &self,
        asked: Asked,
        effect: impl FnOnce(&Rc<Incarnation>, &SimStore) -> (Result<T, StoreError>, u64) + 'static,
        mangle: impl FnOnce(StoreFaultKind, T) -> T + 'static,
    ) -> Result<T, StoreError> {
        let owner = (*self.0).clone();
        owner.alive_or_never().await;
        let world = owner.world.clone();
        let store = world.store();
        let Asked { operation, name, upload_bytes, by } = asked;
        let fault = store.take_fault(operation, &name);
        let (number, there, back, rate, coin, modelled) = {
            let mut state = store.state.borrow_mut();
            let state = &mut *state;
            let number = state.next_request;
            state.next_request += 1;
            let there = draw(&state.config.latency, &mut state.rng) / 2;
            let back = draw(&state.config.latency, &mut state.rng) / 2;
            let modelled = state.config.modelled.clone();
            (number, there, back, state.config.bytes_per_second, state.rng.random_bool(0.5), modelled)
        };
        let upload_bytes = Modelled::weigh(modelled.as_ref(), &name, upload_bytes);
        let upload_bytes = in_blocks(upload_bytes);
        let sent = store.state.borrow_mut().over_link(&owner.process, true, world.now().0 + there, upload_bytes);
        let mut arrival = SimTime(sent + transfer_nanos(upload_bytes, rate));
        if let Some(StoreFaultKind::Delayed(delay)) = fault {
            arrival = arrival + delay;
        }
        let done: Completion<Result<T, StoreError>> = Completion::new();

        let reply = done.clone();
        let gives_up = owner.machine.clock.when(by);
        let _deadline = Deadline(
            world.clone(),
            world.queue().call(gives_up, move |_| {
                let _ = reply.complete(Err(in_the_dark(operation, "no answer in time")));
            }),
        );

        let (reply, sender, receiver) = (done.clone(), owner.clone(), owner.process.clone());
        let event = world.queue().call(arrival, move |world| {
            let store = world.store();
            store.state.borrow_mut().under_way.remove(&number);
            let answer = move |world: &World, bytes: u64, result: Result<T, StoreError>| {
                let bytes = Modelled::weigh(modelled.as_ref(), &name, bytes);
                let bytes = in_blocks(bytes);
                let from = world.now().0 + back;
                let received = world.store().state.borrow_mut().over_link(&receiver, false, from, bytes);
                let at = SimTime(received + transfer_nanos(bytes, rate));
                world.queue().call(at, move |world| {
                    let lost = world.store().is_out(world.now());
                    let broken = || Err(in_the_dark(operation, "connection lost"));
                    let _ = reply.complete(if lost { broken() } else { result });
                });
            };
            if store.is_out(world.now()) {
                if coin {
                    answer(world, 0, Err(StoreError::Unavailable("connection refused".to_string())));
                }
                return;
            }
            match fault {
                Some(StoreFaultKind::ErrorBefore) => {
                    return answer(world, 0, Err(StoreError::Unavailable("internal error, injected".to_string())));
                }
                Some(StoreFaultKind::TimeoutBefore) => return,
                Some(StoreFaultKind::Throttled(d)) => return answer(world, 0, Err(StoreError::Throttled(d))),
                Some(StoreFaultKind::Denied) => return answer(world, 0, Err(StoreError::Denied)),
                Some(StoreFaultKind::Permanent) => {
                    return answer(world, 0, Err(StoreError::Permanent("injected".to_string())));
                }
                _ => {}
            }
            let (result, bytes) = effect(&sender, &store);
            match fault {
                Some(StoreFaultKind::ErrorAfter) => answer(world, 0, Err(in_the_dark(operation, "connection lost"))),
                Some(StoreFaultKind::TimeoutAfter) => {}
                Some(kind) => answer(world, bytes, result.map(|value| mangle(kind, value))),
                None => answer(world, bytes, result),
            }
        });
        store
            .state
            .borrow_mut()
            .under_way
            .insert(number, Request { process: owner.process.clone(), incarnation: owner.number, operation, event });
        let result = done.wait().await;
        owner.alive_or_never().await;
        result
    }
}

/// An upload in pieces. What was stored of it stays in the store until it is finished, given up or discarded, whatever becomes of
/// the process.
struct SimUpload<'a> {
    primary: &'a SimPrimary,
    name: ObjectName,
    number: u64,
}

impl SimUpload<'_> {
    fn asked(&self, operation: StoreOperation, upload_bytes: u64, by: Mono) -> Asked {
        Asked { operation, name: self.name.to_string(), upload_bytes, by }
    }
}

impl Upload for SimUpload<'_> {
    fn put(&mut self, number: u32, piece: Bytes, by: Mono) -> Fut<'_, Result<(), StoreError>> {
        boxed(async move {
            let upload = self.number;
            let asked = self.asked(StoreOperation::Upload, piece.len() as u64, by);
            let effect = move |_: &Rc<Incarnation>, store: &SimStore| (store.put_piece(upload, number, piece), 0);
            self.primary.request(asked, effect, |_, value| value).await
        })
    }

    fn finish(&mut self, by: Mono) -> Fut<'_, Result<(), StoreError>> {
        boxed(async move {
            let (upload, name) = (self.number, self.name.clone());
            let asked = self.asked(StoreOperation::Create, 0, by);
            let effect =
                move |owner: &Rc<Incarnation>, store: &SimStore| (store.finish_upload(owner, upload, &name), 0);
            self.primary.request(asked, effect, |_, value| value).await
        })
    }

    fn abort(&mut self, by: Mono) -> Fut<'_, Result<(), StoreError>> {
        boxed(async move {
            let upload = self.number;
            let asked = self.asked(StoreOperation::Upload, 0, by);
            let effect = move |_: &Rc<Incarnation>, store: &SimStore| {
                store.abort_upload(upload);
                (Ok(()), 0)
            };
            self.primary.request(asked, effect, |_, value| value).await
        })
    }
}

impl PrimaryStorage for SimPrimary {
    fn create(&self, name: &ObjectName, parts: Vec<Bytes>, by: Mono) -> Fut<'_, Result<(), StoreError>> {
        let name = name.clone();
        boxed(async move {
            let bytes = match <[Bytes; 1]>::try_from(parts) {
                Ok([only]) => only,
                Err(parts) => parts.concat().into(),
            };
            let asked = Asked {
                operation: StoreOperation::Create,
                name: name.to_string(),
                upload_bytes: bytes.len() as u64,
                by,
            };
            let effect = move |owner: &Rc<Incarnation>, store: &SimStore| (store.create(owner, &name, bytes), 0);
            self.request(asked, effect, |_, value| value).await
        })
    }

    fn upload<'a>(&'a self, name: &ObjectName, by: Mono) -> Fut<'a, Result<Box<dyn Upload + 'a>, StoreError>> {
        let name = name.clone();
        boxed(async move {
            let asked = Asked { operation: StoreOperation::Upload, name: name.to_string(), upload_bytes: 0, by };
            let begun = name.clone();
            let effect = move |_: &Rc<Incarnation>, store: &SimStore| (Ok(store.begin_upload(&begun)), 0);
            let number = self.request(asked, effect, |_, value| value).await?;
            Ok(Box::new(SimUpload { primary: self, name, number }) as Box<dyn Upload + 'a>)
        })
    }

    fn unfinished(&self, prefix: &str, by: Mono) -> Fut<'_, Result<Vec<ObjectName>, StoreError>> {
        let prefix = prefix.to_string();
        boxed(async move {
            // Where nothing was ever begun, the question takes no time and draws no chance: a run in which nothing comes in pieces is
            // the same run, whether anybody asks or not.
            if !self.0.world.store().has_begun_uploads() {
                self.0.alive_or_never().await;
                return Ok(Vec::new());
            }
            let asked = Asked { operation: StoreOperation::List, name: prefix.clone(), upload_bytes: 0, by };
            let effect = move |_: &Rc<Incarnation>, store: &SimStore| {
                let found = store.unfinished(&prefix);
                let length = found.len() as u64 * 100;
                (Ok(found), length)
            };
            self.request(asked, effect, |_, value| value).await
        })
    }

    fn discard_unfinished(&self, name: &ObjectName, by: Mono) -> Fut<'_, Result<(), StoreError>> {
        let name = name.clone();
        boxed(async move {
            let asked = Asked { operation: StoreOperation::Delete, name: name.to_string(), upload_bytes: 0, by };
            let effect = move |_: &Rc<Incarnation>, store: &SimStore| {
                store.discard_unfinished(&name);
                (Ok(()), 0)
            };
            self.request(asked, effect, |_, value| value).await
        })
    }

    fn read(&self, name: &ObjectName, range: Option<Range<u64>>, by: Mono) -> Fut<'_, Result<Bytes, StoreError>> {
        let name = name.clone();
        boxed(async move {
            let asked = Asked { operation: StoreOperation::Read, name: name.to_string(), upload_bytes: 0, by };
            let owner = (*self.0).clone();
            let object = name.clone();
            let effect = move |reader: &Rc<Incarnation>, store: &SimStore| {
                let result = store.read(reader, &name, range);
                let length = result.as_ref().map_or(0, |bytes| bytes.len() as u64);
                (result, length)
            };
            let mangle = move |kind, bytes: Bytes| match kind {
                // A single byte cannot be read short.
                StoreFaultKind::ShortRead => bytes.slice(..bytes.len().div_ceil(2)),
                StoreFaultKind::CorruptRead if !bytes.is_empty() => {
                    let store = owner.world.store();
                    let bit = store.state.borrow_mut().rng.random_range(0..bytes.len() * 8);
                    store.misread(&owner, &object, bytes.len() as u64);
                    let mut wrong = bytes.to_vec();
                    wrong[bit / 8] ^= 1 << (bit % 8);
                    wrong.into()
                }
                _ => bytes,
            };
            self.request(asked, effect, mangle).await
        })
    }

    fn list(&self, prefix: &str, by: Mono) -> Fut<'_, Result<Vec<ObjectMeta>, StoreError>> {
        let prefix = prefix.to_string();
        boxed(async move {
            let asked = Asked { operation: StoreOperation::List, name: prefix.clone(), upload_bytes: 0, by };
            let effect = move |_: &Rc<Incarnation>, store: &SimStore| {
                let found = store.list(&prefix);
                let length = found.len() as u64 * 100;
                (Ok(found), length)
            };
            self.request(asked, effect, |_, value| value).await
        })
    }

    fn delete(&self, name: &ObjectName, by: Mono) -> Fut<'_, Result<(), StoreError>> {
        let name = name.clone();
        boxed(async move {
            let asked = Asked { operation: StoreOperation::Delete, name: name.to_string(), upload_bytes: 0, by };
            let effect = move |owner: &Rc<Incarnation>, store: &SimStore| {
                store.delete(owner, &name);
                (Ok(()), 0)
            };
            self.request(asked, effect, |_, value| value).await
        })
    }
}
