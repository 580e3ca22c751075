//! The mount on the real kernel, with a site in memory behind it. Needs root and fuse3.

mod site;

use std::path::Path;

/// Mounts a site in memory until it is unmounted: for trying things by hand.
/// `WEFT_MOUNT=/mnt/weft cargo test -p weft-fuse --test kernel by_hand -- --ignored`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "for trying things by hand"]
async fn by_hand() {
    let path = std::env::var("WEFT_MOUNT").expect("WEFT_MOUNT says where to mount");
    let site = site::Site::start().await;
    let client = site.client().await;
    let volume = site::root(&client).await;
    let runtime = tokio::runtime::Handle::current();
    let mounted =
        weft_fuse::mount(client, volume, Path::new(&path), weft_fuse::MountOptions::default(), runtime).expect("mount");
    mounted.wait().await.expect("unmount");
    assert!(site.chunks() < usize::MAX);
}
