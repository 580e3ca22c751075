//! `weft dev`: a whole site on this machine. One node runs in this process; more are `weft node` processes of their own,
//! as on real machines. Everything lies in one folder, which finds its data and its ports again.

mod children;
mod demo;
mod layout;
mod record;
mod site;

use std::path::Path;

use weft_client::Client;
use weft_fuse::{MountError, MountOptions, Mounted};

use crate::args::DevArgs;
use crate::commands::mount::mount;
use crate::connect::{close, connect_with};
use crate::failure::{Doing, Failure};
use crate::interrupt::Interrupts;
use crate::output;

use layout::Layout;
use site::DevSite;

/// Runs the site until Ctrl-C or SIGTERM.
pub(crate) async fn run(args: DevArgs) -> Result<(), Failure> {
    let mut interrupts = Interrupts::take()?;
    if args.demo {
        return demo::run(&mut interrupts).await;
    }
    let layout = Layout::open(&args.dir, args.nodes, args.port)?;
    let mut site = DevSite::new(layout, args.tls);
    let started = tokio::select! {
        biased;
        () = interrupts.next() => Err(Failure::interrupted()),
        started = site.start() => started,
    };
    let ran = match started {
        Ok(()) => serve(&mut site, &mut interrupts, args.mount.as_deref()).await,
        Err(failure) => Err(failure),
    };
    let stopped = site.stop(&mut interrupts).await;
    let stopped =
        stopped.and_then(|()| output::line(format!("stopped; everything is in {}", site.layout().dir.display())));
    match ran {
        // To be told to stop is no failure.
        Err(failure) if failure == Failure::interrupted() => stopped,
        ran => ran.and(stopped),
    }
}

/// Mounts if asked to, says what there is, and waits for the end.
async fn serve(site: &mut DevSite, interrupts: &mut Interrupts, at: Option<&Path>) -> Result<(), Failure> {
    let mounted = match at {
        Some(path) => Some(tokio::select! {
            biased;
            () = interrupts.next() => return Err(Failure::interrupted()),
            mounted = mount_root(site, path) => mounted?,
        }),
        None => None,
    };
    let path = mounted.as_ref().map(|(_, mounted)| mounted.path().to_path_buf());
    site.ready(path.as_deref())?;
    output::line(what_to_try(site.layout(), path.as_deref()))?;
    let mut standing = mounted.is_some();
    loop {
        tokio::select! {
            biased;
            () = interrupts.next() => break,
            said = site.child_ended() => output::note(said),
            ended = gone(mounted.as_ref()), if standing => {
                let how = ended.err().map(|error| format!(": {error}")).unwrap_or_default();
                output::note(format!("the mount was taken away{how}; the nodes go on. `weft mount PATH` mounts again"));
                standing = false;
                site.ready(None)?;
            }
        }
    }
    output::note("stopping ...");
    let Some((client, mounted)) = mounted else { return Ok(()) };
    let unmounted = match standing {
        true => tokio::select! {
            biased;
            // Ctrl-C again: without waiting for what is written back.
            () = interrupts.next() => return Ok(()),
            unmounted = mounted.unmount() => unmounted,
        },
        false => Ok(()),
    };
    let unmounted = unmounted.map_err(|error| Failure::new(format!("unmount: {error}")));
    unmounted.and(close(&client).await)
}

/// Returns when the mount was taken away by others.
async fn gone(mounted: Option<&(Client, Mounted)>) -> Result<(), MountError> {
    match mounted {
        Some((_, mounted)) => mounted.wait().await,
        None => std::future::pending().await,
    }
}

async fn mount_root(site: &DevSite, path: &Path) -> Result<(Client, Mounted), Failure> {
    // A dead mount in the way is explained by the mount itself.
    if path.symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
        std::fs::create_dir_all(path).doing(format!("make the mount point {}", path.display()))?;
    }
    let mut options = site.connect_options();
    options.write_leases = true;
    let client = connect_with(options, site.credential()?.as_ref()).await?;
    mount(client, weft_client::site::ROOT_VOLUME, path, MountOptions::default()).await
}

fn what_to_try(layout: &Layout, mounted: Option<&Path>) -> String {
    let mut out = String::from("\nThe site stands.\n");
    for node in &layout.nodes {
        out +=
            &format!("  node {}   {}   metrics at http://{}/metrics\n", node.number, node.addr(), node.settings.http);
    }
    out += &format!("  data     {}\n", layout.dir.display());
    if let Some(path) = mounted {
        out += &format!("  mounted  {}\n", path.display());
    }
    out += "\nTry, in another terminal:\n";
    if layout.credential().exists() {
        out += &format!("  export WEFT_CREDENTIAL={}\n", layout.credential().display());
    }
    if layout.nodes[0].addr() != "127.0.0.1:7400" {
        out += &format!("  export WEFT_CONNECT={}\n", layout.addrs().join(","));
    }
    if let Some(path) = mounted {
        let path = path.display();
        out += &format!("  cp -a SOME/TREE {path}/ && diff -r SOME/TREE {path}/TREE\n");
    }
    out += "  weft put -r SOME/TREE / && weft ls -l /\n";
    out += "  weft volume create team && weft ls /\n";
    out += "  weft cluster status\n";
    if let [_, .., victim] = &layout.nodes[..] {
        let (pid, config) = (victim.pid_file(), victim.config());
        out += &format!("  kill -9 $(cat {})    a node dies, nothing stops; it comes back with\n", pid.display());
        out += &format!("  weft node --config {}\n", config.display());
    }
    out += "\nCtrl-C stops it; the same command finds everything again.";
    out
}
