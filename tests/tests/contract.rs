//! The contracts of the seam, in every world there is.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a harness prepares and inspects the real machine; the law holds for the runtime"
)]

use std::{
    cell::RefCell,
    collections::BTreeMap,
    future::pending,
    net::{SocketAddr, TcpListener},
    rc::Rc,
    time::Duration,
};

use futures::future::BoxFuture;
use runtime::platform::{
    Address, AdoptMethod, ObjectName, Platform, RelPath, TaskEnd,
    real::{RealConfig, RealWorld},
    timeout,
};
use sim::{Direction, World, WorldConfig};
use socket2::{Domain, Socket, Type};
use weir_tests::{
    contracts::{self, INPUT, Stage},
    every_contract,
};

/// A body that is not through by then hangs.
const PATIENCE: Duration = Duration::from_secs(60);

mod real {
    use super::*;

    /// Runs a body on two processes of this machine, from a thread that no tokio runtime knows.
    fn run(body: impl FnOnce(Stage) -> BoxFuture<'static, ()>) {
        let root = tempfile::tempdir().expect("a temporary directory");
        let open = |process| RealWorld::new(process, RealConfig::below(root.path(), process)).expect("the real world");
        let (here, there) = (open("here"), open("there"));
        let input = root.path().join("input.txt");
        std::fs::write(&input, INPUT).expect("the input is written");
        let (silent, _keep) = silent_listener();
        let stage = Stage {
            here: here.platform(),
            there: there.platform(),
            place: |_, _| Address("127.0.0.1:0".to_string()),
            nobody: free_address(),
            silent,
            input: input.display().to_string(),
            no_input: root.path().join("no-input.txt").display().to_string(),
        };
        let clock = here.platform().clock;
        let deadline = clock.now() + PATIENCE;
        here.block_on(timeout(&*clock, deadline, body(stage))).expect("the body hangs");
    }

    /// An address nobody listens at any more.
    fn free_address() -> Address {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        Address(listener.local_addr().expect("bound").to_string())
    }

    /// An address that answers no connect: its queue of connections is full and is never emptied.
    fn silent_listener() -> (Address, Vec<Socket>) {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("binds");
        listener.listen(0).expect("listens");
        let address = listener.local_addr().expect("bound");
        let mut kept = vec![listener];
        loop {
            let filler = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            let full = filler.connect_timeout(&address, Duration::from_millis(50)).is_err();
            kept.push(filler);
            if full {
                let address = address.as_socket().expect("an internet address").to_string();
                return (Address(address), kept);
            }
        }
    }

    /// R218, R219. Directories elsewhere are part of the disk, under their names; what cannot be linked into one of them, because it is
    /// another device, is copied.
    #[test]
    fn directories_elsewhere_are_part_of_the_disk() {
        use std::os::unix::fs::MetadataExt;
        let root = tempfile::tempdir().expect("a temporary directory");
        let near = tempfile::tempdir_in(root.path()).expect("a temporary directory");
        let far = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a temporary directory");
        let mounts = [("root-0", &near), ("root-1", &far)];
        let mounts = mounts.map(|(name, place)| (RelPath::new(name).expect("plain"), place.path().to_path_buf()));
        let config = RealConfig { mounts: mounts.to_vec(), ..RealConfig::below(root.path(), "here") };
        let world = RealWorld::new("here", config).expect("the real world");
        let disk = world.platform().disk;
        let device = |path: &std::path::Path| std::fs::metadata(path).expect("it is there").dev();
        let crosses = device(near.path()) != device(far.path());
        world.block_on(async {
            let native = disk.native_dir().await.expect("a directory");
            let mut file = disk.create_native(&native, "", "1.sst").await.expect("begun");
            file.append("table".into()).await.expect("written");
            for (name, place, copied) in [("root-0", &near, false), ("root-1", &far, crosses)] {
                let copy = RelPath::new(format!("{name}/localState/chk_1")).expect("plain");
                let linked = disk.adopt(&native, "", &["1.sst".to_string()], &copy).await.expect("adopted");
                assert_eq!(linked[0].method == AdoptMethod::Copy, copied, "{name}");
                let path = place.path().join("localState/chk_1/1.sst");
                assert_eq!(std::fs::read(path).expect("it is there"), b"table");
                let mut file = disk.create_new(&copy.join("_manifest")).await.expect("created");
                file.append("whole".into()).await.expect("written");
                file.sync().await.expect("synced");
                disk.sync_dir(&copy).await.expect("synced");
                assert_eq!(disk.list(&copy).await.expect("listed"), ["1.sst", "_manifest"]);
                disk.remove_tree(&copy).await.expect("removed");
                assert!(disk.list(&copy).await.expect("listed").is_empty());
            }
            assert!(disk.list(&RelPath::new("localState").expect("plain")).await.expect("listed").is_empty());
        });
    }

    /// Objects outside of the shared directory come in pieces too. What is left of one is found, and the directory of a savepoint goes
    /// with the last of it, but none above.
    #[test]
    fn savepoints_elsewhere_come_in_pieces() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let away = tempfile::tempdir().expect("a temporary directory");
        let world = RealWorld::new("here", RealConfig::below(root.path(), "here")).expect("the real world");
        let Platform { primary, clock, .. } = world.platform();
        let by = clock.now() + PATIENCE;
        let directory = away.path().join("kept/savepoint-1");
        let below = primary.locate(directory.to_str().expect("UTF-8")).expect("a place");
        let name = |part: &str| ObjectName::new(format!("{below}/{part}")).expect("plain");
        world.block_on(async {
            let mut whole = primary.upload(&name("whole"), by).await.expect("begins");
            whole.put(0, "one ".into(), by).await.expect("stores");
            whole.put(1, "two".into(), by).await.expect("stores");
            whole.finish(by).await.expect("finishes");
            assert_eq!(std::fs::read(directory.join("whole")).expect("it is there"), b"one two");
            assert_eq!(primary.read(&name("whole"), None, by).await.expect("reads"), "one two");
            // It is the same place now that it is there.
            for (path, at) in [(directory.clone(), below.clone()), (directory.join("whole"), name("whole"))] {
                assert_eq!(primary.locate(path.to_str().expect("UTF-8")), Ok(at));
            }
            let mut left = primary.upload(&name("left"), by).await.expect("begins");
            left.put(0, "one".into(), by).await.expect("stores");
            let prefix = format!("{below}/");
            assert_eq!(primary.unfinished(&prefix, by).await.expect("looks"), [name("left")]);
            primary.delete(&name("whole"), by).await.expect("deletes");
            assert!(directory.exists(), "what is left of the other is still in it");
            primary.discard_unfinished(&name("left"), by).await.expect("discards");
            assert!(primary.unfinished(&prefix, by).await.expect("looks").is_empty());
            assert!(!directory.exists() && away.path().join("kept").exists());
        });
    }

    macro_rules! tests {
        ($($module:ident :: $name:ident),* $(,)?) => {$(
            #[test]
            fn $name() {
                run(|stage| Box::pin(contracts::$module::$name(stage)));
            }
        )*};
    }
    every_contract!(tests);
}

mod simulated {
    use super::*;

    /// Runs a body on two processes of a simulated world, as a task of the first.
    fn run(body: fn(Stage) -> BoxFuture<'static, ()>) {
        let config = WorldConfig { seed: 7, time_limit: PATIENCE, ..WorldConfig::default() };
        let outcome = sim::run(config, move |world| {
            Box::pin(async move {
                let stage = stage(&world).await;
                stage.here.spawner.clone().control("contract", body(stage)).await
            })
        });
        match outcome.value {
            Ok(end) => assert_eq!(end, TaskEnd::Done),
            Err(failure) => panic!("{failure}"),
        }
    }

    async fn stage(world: &World) -> Stage {
        let platforms: Rc<RefCell<BTreeMap<&str, Platform>>> = Rc::default();
        for process in ["here", "there", "silent"] {
            let machine = format!("machine-of-{process}");
            world.add_machine(&machine);
            let platforms = platforms.clone();
            let entry = move |platform| {
                platforms.borrow_mut().insert(process, platform);
                Box::pin(pending()) as BoxFuture<'static, ()>
            };
            world.add_process(process, &machine, Rc::new(entry));
            world.start(process);
        }
        world.partition("here", "silent", Direction::Both);
        world.inputs().put("input.txt", INPUT);
        while platforms.borrow().len() < 3 {
            world.sleep(Duration::from_millis(1)).await;
        }
        let platform = |process| platforms.borrow()[process].clone();
        Stage {
            here: platform("here"),
            there: platform("there"),
            place: |process, service| Address(format!("{process}/{service}")),
            nobody: Address("there/nobody".to_string()),
            silent: Address("silent/service".to_string()),
            input: "input.txt".to_string(),
            no_input: "no-input.txt".to_string(),
        }
    }

    macro_rules! tests {
        ($($module:ident :: $name:ident),* $(,)?) => {$(
            #[test]
            fn $name() {
                run(|stage| Box::pin(contracts::$module::$name(stage)));
            }
        )*};
    }
    every_contract!(tests);
}
