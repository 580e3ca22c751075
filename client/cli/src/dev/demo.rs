//! `weft dev --demo`: shows in a minute what Weft does, unattended, and leaves nothing behind.

use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;
use weft_client::{Client, ClientParts, Cred};
use weft_fuse::{MountOptions, Mounted};

use super::layout::Layout;
use super::site::DevSite;
use crate::commands::mount::mount;
use crate::connect::{close, connect_with};
use crate::failure::{Doing, Failure};
use crate::interrupt::Interrupts;
use crate::{humane, output};

const NODES: u32 = 3;
/// The one that is killed.
const VICTIM: u32 = 3;
/// Several chunks, and a piece of one at the end.
const FILE_BYTES: usize = (48 << 20) + 12_345;
const NAME: &str = "hello.bin";

/// Runs the demonstration.
pub(crate) async fn run(interrupts: &mut Interrupts) -> Result<(), Failure> {
    let dir = std::env::temp_dir().join(format!("weft-demo-{}", std::process::id()));
    let mut site = DevSite::new(Layout::open(&dir, Some(NODES), Some(0))?, false);
    let shown = tokio::select! {
        biased;
        () = interrupts.next() => Err(Failure::interrupted()),
        shown = show(&mut site, &dir) => shown,
    };
    let stopped = site.stop(interrupts).await;
    drop(site);
    let removed = std::fs::remove_dir_all(&dir).doing(format!("remove {}", dir.display()));
    shown.and(stopped).and(removed)?;
    output::line("\nAll of it worked, and all of it is cleaned up.\nNow your own: weft dev --nodes 3 --mount /tmp/weft")
}

async fn show(site: &mut DevSite, dir: &Path) -> Result<(), Failure> {
    step("Three node processes on this machine: metadata by Raft, every chunk on three of them")?;
    site.start().await?;

    step("Mounting")?;
    let at = dir.join("mnt");
    std::fs::create_dir_all(&at).doing("make the mount point")?;
    let client = connect_with(site.connect_options(), None).await?;
    let mounted = match mount(client.clone(), weft_client::site::ROOT_VOLUME, &at, MountOptions::default()).await {
        Ok((_, mounted)) => {
            said(format!("the site is the folder {}", at.display()))?;
            Some(mounted)
        }
        Err(failure) => {
            said(format!("not possible here ({}); the library does it instead", failure.what().unwrap_or_default()))?;
            None
        }
    };
    let result = with_files(site, &client, mounted.as_ref()).await;
    let unmounted = match &mounted {
        Some(mounted) => mounted.unmount().await.map_err(|error| Failure::new(format!("unmount: {error}"))),
        None => Ok(()),
    };
    drop(mounted);
    result.and(unmounted).and(close(&client).await)
}

async fn with_files(site: &mut DevSite, client: &Client, mounted: Option<&Mounted>) -> Result<(), Failure> {
    let bytes = pattern();
    step(format!("Writing {} and making them durable on a majority", humane::bytes(FILE_BYTES as u64)))?;
    let since = Instant::now();
    match mounted {
        Some(mounted) => {
            let path = mounted.path().join(NAME);
            let bytes = bytes.clone();
            blocking("write through the mount", move || {
                let mut file = std::fs::File::create(path)?;
                std::io::Write::write_all(&mut file, &bytes)?;
                file.sync_all()
            })
            .await?;
        }
        None => {
            let mut source = &bytes[..];
            let path = format!("/{NAME}");
            let copied = client.copy_in(&Cred::root(), &mut source, path.as_bytes(), 0o644, &mut |_| {}).await;
            copied.doing("write")?;
        }
    }
    said(format!("done: {}", rate(since)))?;

    step("Reading it back as another client, every byte checked against its sums")?;
    compare(site, &bytes).await?;

    step(format!("kill -9 of node {VICTIM}"))?;
    site.kill(VICTIM).await?;
    said("gone. Reading again, at once, as yet another client")?;
    compare(site, &bytes).await?;

    step("Writing goes on as well")?;
    let since = Instant::now();
    match mounted {
        Some(mounted) => {
            let path = mounted.path().join("while-one-is-down.txt");
            blocking("write through the mount", move || {
                let mut file = std::fs::File::create(path)?;
                std::io::Write::write_all(&mut file, b"nothing stopped\n")?;
                file.sync_all()
            })
            .await?;
        }
        None => {
            let mut source = &b"nothing stopped\n"[..];
            let path = b"/while-one-is-down.txt";
            client.copy_in(&Cred::root(), &mut source, path, 0o644, &mut |_| {}).await.doing("write")?;
        }
    }
    said(format!("done after {:.1} s", since.elapsed().as_secs_f32()))?;

    step(format!("Node {VICTIM} comes back and catches up"))?;
    let since = Instant::now();
    site.start_again(VICTIM)?;
    site.wait_healthy().await?;
    said(format!("everything is whole again after {:.1} s", since.elapsed().as_secs_f32()))
}

/// Reads the file with a client that has nothing cached, and compares.
async fn compare(site: &DevSite, expected: &[u8]) -> Result<(), Failure> {
    let since = Instant::now();
    let client = Client::connect(site.connect_options(), ClientParts::real()).await.doing("connect")?;
    let mut read = Vec::with_capacity(expected.len());
    let path = format!("/{NAME}");
    client.copy_out(&Cred::root(), path.as_bytes(), &mut read, &mut |_| {}).await.doing("read back")?;
    close(&client).await?;
    if read != expected {
        return Err(Failure::new("the bytes read are not those written").hint("this is a bug: please report it"));
    }
    said(format!("equal: {}", rate(since)))
}

/// Bytes that differ everywhere.
fn pattern() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(FILE_BYTES + 8);
    while bytes.len() < FILE_BYTES {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(FILE_BYTES);
    bytes
}

fn rate(since: Instant) -> String {
    let took = since.elapsed().max(Duration::from_millis(1)).as_secs_f64();
    format!("{took:.1} s, {}/s", humane::bytes((FILE_BYTES as f64 / took) as u64))
}

async fn blocking(
    doing: &'static str,
    work: impl FnOnce() -> std::io::Result<()> + Send + 'static,
) -> Result<(), Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(std::io::Error::other(error))).doing(doing)
}

fn step(text: impl AsRef<str>) -> Result<(), Failure> {
    output::line(format!("\n== {}", text.as_ref()))
}

fn said(text: impl AsRef<str>) -> Result<(), Failure> {
    output::line(format!("   {}", text.as_ref()))
}
