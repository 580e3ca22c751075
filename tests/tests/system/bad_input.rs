//! Bad input gets a clear error where it came in and stops nobody else.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use weft_tests::{Fabric, weft};

fn throw(addr: &str, garbage: &[u8]) {
    let mut socket = TcpStream::connect(addr).expect("connect");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("set a time-out");
    // The server may hang up at any point: that is an answer too.
    let _ = socket.write_all(garbage);
    let _ = socket.read(&mut [0; 1024]);
}

#[test]
fn garbage_stops_nobody() {
    let mut fabric = Fabric::start(1);
    let mut random = vec![0u8; 100_000];
    let mut state = 1u32;
    for byte in &mut random {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (state >> 24) as u8;
    }
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for addr in [fabric.nodes[0].addr.clone(), fabric.nodes[0].http.clone()] {
        throw(&addr, b"");
        throw(&addr, &random);
        throw(&addr, b"GET / HTTP/1.1\r\n\r\n");
        throw(&addr, &[0xff; 4096]);
        throw(&addr, &[&preface[..], &random[..]].concat());
        throw(&addr, &vec![b'A'; 1 << 20]);
    }
    assert!(fabric.nodes[0].runs(), "{}", fabric.logs());
    fabric.wait_whole();
    let http = {
        let mut socket = TcpStream::connect(&fabric.nodes[0].http).expect("connect");
        socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("ask for metrics");
        let mut text = String::new();
        socket.read_to_string(&mut text).expect("read the metrics");
        text
    };
    assert!(http.starts_with("HTTP/1.1 200") && http.contains("weft_"), "{http}");

    // Names and paths that are too long, through the mount and through the command line.
    let mut mount = fabric.mount();
    let long = "x".repeat(256);
    let error = fs::write(mount.path.join(&long), b"").expect_err("a name of 256 bytes");
    assert_eq!(error.raw_os_error(), Some(libc::ENAMETOOLONG));
    let refused = fabric.try_weft(&["mkdir", &format!("/{long}")]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("longer than 255"), "{refused:?}");
    fs::write(mount.path.join("still"), b"alive").expect("write after all that");
    assert_eq!(fs::read(mount.path.join("still")).expect("read"), b"alive");
    mount.unmount();
}

#[test]
fn messages_of_another_version_or_size_are_refused() {
    use weft_proto::pb;
    let fabric = Fabric::start(1);
    let addr = fabric.nodes[0].addr.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let channel = weft_proto::link::channel(std::sync::Arc::new(weft_proto::link::Tcp), &addr).expect("a channel");
        let mut site = pb::site_client::SiteClient::new(channel.clone());
        let envelope = pb::Envelope { protocol: 999, ..Default::default() };
        let refused = site.map(pb::MapRequest { envelope: Some(envelope), have_version: 0 }).await;
        let refused = refused.expect_err("a protocol version from the future");
        assert!(refused.message().contains("protocol version 999"), "{refused:?}");

        let mut chunks = pb::chunk_client::ChunkClient::new(channel);
        let envelope = pb::Envelope { protocol: weft_proto::PROTOCOL, ..Default::default() };
        let put = pb::PutRequest { envelope: Some(envelope), data: vec![0; 20 << 20].into(), ..Default::default() };
        chunks.put(put).await.expect_err("a message of 20 MiB");
    });
    fabric.wait_whole();
}
/// Runs `weft node` on a configuration that must be refused; what it said.
fn refused(config: &std::path::Path) -> String {
    let output = Command::new(weft()).arg("node").arg("--config").arg(config).output().expect("run weft node");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_node_refuses_to_start_with_the_reason() {
    let mut fabric = Fabric::start(1);
    let config = fabric.nodes[0].config();

    // The folder is in use.
    assert!(refused(&config).contains("another"), "{}", refused(&config));

    fabric.nodes[0].stop();
    fabric.nodes[0].configure("lsten = \"127.0.0.1:1\"");
    let said = refused(&config);
    assert!(said.contains("unknown key lsten") && said.contains("line") && said.contains("listen"), "{said}");

    fabric.nodes[0].configure("");
    // A format from the future is tried in weft-node, where one can be written with its sum.
    let format = fabric.nodes[0].folder.join("data/format");
    let before = fs::read(&format).expect("the format file");
    let garbled = [&before[..], b"garbage"].concat();
    fs::write(&format, garbled).expect("write the format file");
    let said = refused(&config);
    assert!(said.contains("format") && said.contains("damaged"), "{said}");
    fs::write(&format, before).expect("write the format file");

    let empty = fabric.folder().join("empty.toml");
    fs::write(&empty, format!("data = {:?}\n", fabric.folder().join("empty"))).expect("write a configuration");
    let said = refused(&empty);
    assert!(said.contains("weft cluster init") && said.contains("weft cluster join"), "{said}");

    fabric.nodes[0].start();
    fabric.wait_whole();
}
