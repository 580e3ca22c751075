//! What a fabric takes of memory under many open files and many clients. The full load:
//! `WEFT_FILES=10000 WEFT_CLIENTS=1000 cargo test --release -p weft-tests --test system memory -- --nocapture`.

use std::fs::{self, File};
use std::io::Write;
use std::sync::Arc;

use weft_client::{Client, ClientParts, ConnectOptions, Cred};
use weft_tests::{Fabric, resident, say};

const NODE_MOST: u64 = 512 << 20;
const MOUNT_MOST: u64 = 384 << 20;
/// Open files below one folder.
const PER_FOLDER: usize = 500;

fn load(name: &str, usual: usize) -> usize {
    std::env::var(name).map_or(usual, |text| text.parse().expect("a number"))
}

/// Lets this process have as many files open as it may.
fn more_files() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls only read or write the struct given to them.
    let raised = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit)
    };
    assert_eq!(raised, 0, "raise the limit of open files: {}", std::io::Error::last_os_error());
}

/// So many sessions of the library at once, each of which makes a file, writes it and keeps it open.
async fn clients(addrs: Vec<String>, count: usize) -> Vec<(Arc<Client>, weft_client::File)> {
    let mut made = Vec::new();
    for n in 0..count {
        let client = Client::connect(ConnectOptions::new(addrs.clone()), ClientParts::real()).await.expect("connect");
        let cred = Cred::root();
        let to = client.resolve_parent(&cred, format!("/client{n}").as_bytes()).await.expect("the root");
        let (file, ..) = to.volume.create_file(&cred, to.parent, to.name, 0o644, false).await.expect("create");
        file.write_at(0, vec![n as u8; 20_000].into()).await.expect("write");
        file.flush().await.expect("flush");
        made.push((Arc::new(client), file));
    }
    made
}

#[test]
fn memory_is_bounded_under_many_open_files_and_clients() {
    let (files, count) = (load("WEFT_FILES", 2000), load("WEFT_CLIENTS", 100));
    more_files();
    let mut fabric = Fabric::start(3);
    let mut mount = fabric.mount();
    let mut open = Vec::new();
    for n in 0..files {
        let folder = mount.path.join(format!("d{}", n / PER_FOLDER));
        if n % PER_FOLDER == 0 {
            fs::create_dir(&folder).expect("make a folder");
        }
        let mut file =
            File::options().create(true).read(true).write(true).truncate(true).open(folder.join(n.to_string()));
        let file_ = file.as_mut().expect("create");
        file_.write_all(&vec![n as u8; 10_000]).expect("write");
        open.push(file.expect("created"));
    }
    let addrs: Vec<String> = fabric.nodes.iter().map(|node| node.addr.clone()).collect();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let sessions = runtime.block_on(clients(addrs, count));
    // Everything is written once more and read, through the open files.
    for (n, file) in open.iter_mut().enumerate() {
        use std::os::unix::fs::FileExt;
        file.write_all_at(&[1; 100], 5000).expect("write");
        let mut byte = [0];
        file.read_exact_at(&mut byte, 9000).expect("read");
        assert_eq!(byte[0], n as u8);
    }
    let mib = |bytes: u64| bytes >> 20;
    for (n, node) in fabric.nodes.iter().enumerate() {
        let (now, most) = resident(node.pid().expect("it runs"));
        say(&format!("node {}: {} MiB, at the most {} MiB", n + 1, mib(now), mib(most)));
        assert!(most < NODE_MOST, "node {} took {} MiB", n + 1, mib(most));
    }
    let pid = mount.child().expect("it runs").id();
    let (now, most) = resident(pid);
    say(&format!("mount: {} MiB, at the most {} MiB, {files} files open, {count} clients", mib(now), mib(most)));
    assert!(most < MOUNT_MOST, "the mount took {} MiB", mib(most));
    runtime.block_on(async {
        for (client, file) in sessions {
            file.close().await.expect("close");
            client.close().await.expect("end the session");
        }
    });
    drop(open);
    mount.unmount();
}
