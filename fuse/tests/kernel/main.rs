//! The mount on the real kernel, with a site in memory behind it. Needs root and fuse3; without them nothing is tried.

mod coherence;
mod files;
mod model;
mod names;
mod posix;
mod rights;
mod site;

use std::path::{Path, PathBuf};

use tokio::runtime::Handle;
use weft_client::Client;
use weft_fuse::{MountOptions, Mounted};

/// A site and mounts of it, each with a client of its own.
struct Rig {
    site: site::Site,
    clients: Vec<Client>,
    mounted: Vec<Mounted>,
    folder: tempfile::TempDir,
}

impl Rig {
    /// `None` where nothing can be mounted.
    async fn start(mounts: usize) -> Option<Rig> {
        // SAFETY: takes nothing, touches no memory, cannot fail.
        let root = unsafe { libc::geteuid() == 0 };
        if !root || !Path::new("/dev/fuse").exists() {
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder");
        allow_all(folder.path());
        let mut rig = Rig { site: site::Site::start().await, clients: Vec::new(), mounted: Vec::new(), folder };
        for number in 0..mounts {
            let path = rig.path(number);
            std::fs::create_dir(&path).expect("a folder");
            let client = rig.site.client().await;
            rig.mounted.push(mount(&client, &path).await);
            rig.clients.push(client);
        }
        Some(rig)
    }

    fn path(&self, mount: usize) -> PathBuf {
        self.folder.path().join(format!("mount{mount}"))
    }

    /// Unmounts everything; what was written must be stored without an error.
    async fn stop(self) {
        for mounted in &self.mounted {
            mounted.unmount().await.expect("unmount");
        }
        for client in &self.clients {
            client.close().await.expect("close");
        }
    }
}

async fn mount(client: &Client, path: &Path) -> Mounted {
    let volume = client.volume("root").await.expect("the root volume");
    weft_fuse::mount(client.clone(), volume, path, MountOptions::default(), Handle::current()).expect("mount")
}

fn allow_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).expect("chmod");
}

/// Mounts a site in memory until it is unmounted, for trying things by hand; several mounts with `:` between.
/// `WEFT_MOUNT=/mnt/a:/mnt/b cargo test -p weft-fuse --test kernel by_hand -- --ignored`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "for trying things by hand"]
async fn by_hand() {
    let paths = std::env::var("WEFT_MOUNT").expect("WEFT_MOUNT says where to mount");
    let site = site::Site::start().await;
    let mut mounted = Vec::new();
    for path in paths.split(':') {
        mounted.push(mount(&site.client().await, Path::new(path)).await);
    }
    for mounted in mounted {
        mounted.wait().await.expect("unmount");
    }
}
