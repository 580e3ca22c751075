//! `weft mount`.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use weft_client::Client;
use weft_fuse::{MountOptions, Mounted};

use crate::args::{ConnectArgs, Durability, MountArgs};
use crate::connect::{close, connect_with, credential, options as connect_options};
use crate::failure::{Doing, Failure};
use crate::interrupt::Interrupts;
use crate::{output, system};

/// What the process in the background says to its starter once the mount stands. Anything else is why it does not.
const STANDS: &str = "mounted";
/// Set for the process in the background, by its starter.
const TELL_STARTER: &str = "WEFT_MOUNT_TELL_STARTER";

/// Mounts, and stays until it is unmounted.
pub(crate) async fn run(to: &ConnectArgs, args: MountArgs) -> Result<(), Failure> {
    let tell_starter = std::env::var_os(TELL_STARTER).is_some();
    if args.background && !tell_starter {
        return in_background(&args).await;
    }
    if tell_starter {
        system::leave_session();
    }
    let result = in_foreground(to, &args, tell_starter).await;
    if let (true, Err(failure)) = (tell_starter, &result) {
        // If the mount stood already nobody listens any more; the log has it too.
        let next = failure.next().map(|next| format!("\t{next}")).unwrap_or_default();
        let _ = output::line(format!("{}{next}", failure.what().unwrap_or_default()));
    }
    result
}

async fn in_foreground(to: &ConnectArgs, args: &MountArgs, tell_starter: bool) -> Result<(), Failure> {
    let mut interrupts = Interrupts::take()?;
    let standing = async {
        let mut connecting = connect_options(to);
        connecting.write_leases = args.durability == Durability::Relaxed;
        let client = connect_with(connecting, credential(to)?.as_ref()).await?;
        let options = MountOptions {
            read_only: args.read_only,
            allow_other: args.allow_other.then_some(true),
            ..MountOptions::default()
        };
        mount(client, &args.volume, &args.path, options).await
    };
    let (client, mounted) = tokio::select! {
        biased;
        () = interrupts.next() => return Err(Failure::interrupted()),
        mounted = standing => mounted?,
    };
    if tell_starter {
        output::line(STANDS)?;
        // Whatever folder it was started in may go.
        std::env::set_current_dir("/").doing("leave the current folder")?;
    } else {
        let path = mounted.path().display();
        output::note(format!(
            "volume {} is mounted on {path}; Ctrl-C or `fusermount3 -u {path}` unmounts",
            args.volume
        ));
    }
    let ended = tokio::select! {
        biased;
        () = interrupts.next() => None,
        ended = mounted.wait() => Some(ended),
    };
    let unmounted = match ended {
        Some(ended) => ended,
        // A second signal ends it without waiting for what is written back.
        None => tokio::select! {
            biased;
            () = interrupts.next() => return Err(Failure::interrupted()),
            unmounted = mounted.unmount() => unmounted,
        },
    };
    let unmounted = unmounted.map_err(|error| Failure::new(format!("unmount: {error}")));
    unmounted.and(close(&client).await)
}

/// Mounts a volume.
pub(crate) async fn mount(
    client: Client,
    volume: &str,
    path: &Path,
    options: MountOptions,
) -> Result<(Client, Mounted), Failure> {
    let doing = format!("mount volume {volume} on {}", path.display());
    let volume = client.volume(volume).await.doing(&doing)?;
    let runtime = tokio::runtime::Handle::current();
    let (own, path) = (client.clone(), path.to_path_buf());
    // Looking at a mount point may block, for instance on another mount that hangs.
    let mounted = tokio::task::spawn_blocking(move || weft_fuse::mount(own, volume, &path, options, runtime)).await;
    let mounted = mounted.map_err(|error| Failure::new(format!("{doing}: {error}")))?;
    Ok((client, mounted.map_err(|error| Failure::new(format!("{doing}: {error}")))?))
}

/// Starts this command again, in a process that stays, and returns when it says that the mount stands.
async fn in_background(args: &MountArgs) -> Result<(), Failure> {
    let log = match &args.log {
        Some(log) => log.clone(),
        None => default_log(&args.path)?,
    };
    let starting = "start the mount's process";
    let file = std::fs::File::options().create(true).append(true).open(&log);
    let file = file.doing(format!("open the log {}", log.display()))?;
    let mut child = Command::new(std::env::current_exe().doing(starting)?)
        .args(std::env::args_os().skip(1))
        .env(TELL_STARTER, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(file)
        .process_group(0)
        .spawn()
        .doing(starting)?;
    let mut said = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut said).await.doing("listen to the mount's process")?;
    }
    let path = args.path.display();
    let said = said.trim_end();
    if said == STANDS {
        output::note(format!(
            "volume {} is mounted on {path}; `fusermount3 -u {path}` unmounts; it logs to {}",
            args.volume,
            log.display()
        ));
        return Ok(());
    }
    let (what, next) = said.split_once('\t').unwrap_or((said, ""));
    let what = if what.is_empty() {
        format!("mount on {path}: its process ended, see {}", log.display())
    } else {
        what.into()
    };
    let failure = Failure::new(what);
    Err(if next.is_empty() { failure } else { failure.hint(next) })
}

/// `~/.local/state/weft/mount-PATH.log`, as the XDG base directories say.
fn default_log(path: &Path) -> Result<PathBuf, Failure> {
    let state = std::env::var_os("XDG_STATE_HOME").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    let folder = state.or_else(home).unwrap_or_else(std::env::temp_dir).join("weft");
    std::fs::create_dir_all(&folder)
        .doing(format!("make the folder for logs {}", folder.display()))
        .map_err(|failure| failure.hint("--log FILE logs elsewhere"))?;
    let absolute = std::path::absolute(path).doing("find the mount point")?;
    Ok(folder.join(log_name(&absolute)))
}

fn log_name(path: &Path) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' };
    let name: String = path.to_string_lossy().trim_matches('/').chars().map(plain).collect();
    format!("mount-{}.log", &name[..name.len().min(200)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_are_named_after_the_mount_point() {
        assert_eq!(log_name(Path::new("/mnt/we ft")), "mount-mnt-we-ft.log");
        assert_eq!(log_name(Path::new("/")), "mount-.log");
        assert!(log_name(Path::new(&format!("/{}", "ü".repeat(400)))).len() < 255);
    }
}
