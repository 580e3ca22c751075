//! A fabric with certificates, as people use it: users, credentials, a mount, new keys under way.

use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use weft_tests::{Fabric, wait_for, weft};

fn said(output: &Output) -> String {
    assert!(!output.status.success(), "it was done: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_site_with_users_lets_in_whom_it_knows_and_changes_its_keys_without_a_break() {
    let mut fabric = Fabric::start_secure(3);
    let anna = fabric.folder().join("anna.credential");
    let anna_path = anna.to_str().expect("a plain path").to_string();
    fabric.weft(&["user", "add", "anna", "--uids", "0,1000", "--out", &anna_path]);
    assert_eq!(anna.metadata().expect("the credential").permissions().mode() & 0o777, 0o600);

    // Nobody, a user, and what a user may not.
    let nobody = said(&fabric.try_weft_as(None, &["--timeout", "5", "ls", "/"]));
    assert!(nobody.contains("--credential"), "{nobody}");
    let listed = fabric.try_weft_as(Some(&anna), &["ls", "/"]);
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let refused = said(&fabric.try_weft_as(Some(&anna), &["volume", "create", "mine"]));
    assert!(refused.contains("role admin"), "{refused}");
    let open = fabric.folder().join("open.credential");
    std::fs::copy(&anna, &open).expect("copy the credential");
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).expect("open it");
    let open_said = said(&fabric.try_weft_as(Some(&open), &["ls", "/"]));
    assert!(open_said.contains("644") && open_said.contains("chmod 600"), "{open_said}");

    // A mount goes on while the authority and every node's certificate change.
    let mut mount = fabric.mount();
    let write = |n: usize| {
        let path = mount.path.join(format!("file{n}"));
        std::fs::write(&path, vec![n as u8; 300_000]).and_then(|()| std::fs::read(&path))
    };
    for n in 0..60 {
        if n == 10 {
            fabric.weft(&["cluster", "rotate", "--authority"]);
        }
        if n == 30 {
            fabric.weft(&["cluster", "rotate"]);
        }
        assert_eq!(write(n).expect("no error on the mount"), vec![n as u8; 300_000]);
    }
    wait_for("every node to have a new certificate", || {
        fabric.nodes.iter().all(|node| node.log().contains("this node has a new certificate"))
    });
    assert_eq!(write(60).expect("no error on the mount"), vec![60; 300_000]);
    mount.unmount();

    fabric.weft(&["user", "revoke", "anna"]);
    wait_for("anna to be refused", || {
        let output = fabric.try_weft_as(Some(&anna), &["--timeout", "5", "ls", "/"]);
        String::from_utf8_lossy(&output.stderr).contains("revoked")
    });

    // What is secret is nowhere else.
    let text = std::fs::read_to_string(&anna).expect("the credential");
    let key = text.split("PRIVATE KEY-----\n").nth(1).and_then(|key| key.lines().next()).expect("a key");
    for node in &fabric.nodes {
        let audit = std::fs::read_to_string(node.folder.join("data/audit/log")).unwrap_or_default();
        assert!(!node.log().contains(key) && !audit.contains(key));
        let mode = node.folder.join("data").metadata().expect("the data folder").permissions().mode();
        assert_eq!(mode & 0o077, 0, "the data folder is its owner's alone");
    }
}

#[test]
fn plain_text_stays_on_this_machine() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("node.toml");
    let data = folder.path().join("data");
    let text = format!("data = {data:?}\nlisten = \"0.0.0.0:7499\"\nadvertise = \"10.1.2.3:7499\"\nhttp = \"\"\n");
    std::fs::write(&config, text).expect("write the configuration");
    let init = std::process::Command::new(weft())
        .args(["cluster", "init", "--name", "x", "--plain", "--config"])
        .arg(&config)
        .output()
        .expect("run weft");
    let said = said(&init);
    assert!(said.contains("plain text") && said.contains("--plain"), "{said}");
    assert!(!data.join("identity").exists());
}
