//! A majority that hangs makes calls wait, not their callers unkillable.

use std::process::{Command, Stdio};

use weft_tests::{Fabric, ends, signal, wait_for};

#[test]
fn a_signal_frees_who_waits_for_a_majority_that_hangs_and_the_others_finish_when_it_wakes() {
    let mut fabric = Fabric::start(3);
    let mut mount = fabric.mount();
    // Each in a folder of its own: the kernel keeps a folder locked for who changes it, and that wait knows no signals.
    for folder in ["one", "two"] {
        std::fs::create_dir(mount.path.join(folder)).expect("a folder");
    }
    fabric.weft(&["sync", mount.path.to_str().expect("a plain path")]);
    for node in &fabric.nodes[..2] {
        node.signal(libc::SIGSTOP);
    }
    let mkdir = |name: &str| {
        let mut command = Command::new("mkdir");
        command.arg(mount.path.join(name)).stdin(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("run mkdir")
    };
    let (mut freed, mut patient) = (mkdir("one/freed"), mkdir("two/patient"));
    // In the call: the kernel shows who waits for FUSE.
    wait_for("both to wait", || {
        [freed.id(), patient.id()].iter().all(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
            stat.contains("request_wait") || stat.contains("fuse")
        })
    });
    signal(freed.id(), libc::SIGINT);
    assert!(ends(&mut freed), "a signal frees who waits");
    assert!(patient.try_wait().expect("ask").is_none(), "nobody can answer yet");
    for node in &fabric.nodes[..2] {
        node.signal(libc::SIGCONT);
    }
    assert!(ends(&mut patient));
    assert!(patient.wait().expect("ask").success(), "who waited on is served: {}", fabric.mount_log());
    assert!(mount.path.join("two/patient").is_dir());
    fabric.wait_whole();
    mount.unmount();
}
