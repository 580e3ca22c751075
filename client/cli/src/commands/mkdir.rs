//! `weft mkdir PATH..`.

use weft_client::{Client, Cred, Kind, Refusal};

use crate::args::{ConnectArgs, MkdirArgs};
use crate::connect::{close, connect};
use crate::failure::{Doing, Failure};
use crate::interrupt::Troubles;
use crate::path::SitePath;
use crate::system;

/// Makes each directory; goes on with the others when one fails.
pub(crate) async fn run(to: &ConnectArgs, args: MkdirArgs) -> Result<(), Failure> {
    let client = connect(to).await?;
    let cred = system::cred();
    let plain = 0o777 & !system::umask();
    let troubles = Troubles::default();
    for path in &args.paths {
        let mode = args.mode.unwrap_or(plain);
        let made = match args.parents {
            true => with_parents(&client, &cred, path, mode, plain).await,
            false => make(&client, &cred, path, mode).await,
        };
        if let Err(failure) = made {
            troubles.tell(&failure);
        }
    }
    close(&client).await?;
    troubles.outcome()
}

async fn make(client: &Client, cred: &Cred, path: &SitePath, mode: u16) -> Result<(), Failure> {
    let doing = || format!("make directory {path}");
    let at = client.resolve_parent(cred, path.as_bytes()).await.doing(doing())?;
    at.volume.mkdir(cred, at.parent, at.name, mode).await.doing(doing())?;
    Ok(())
}

/// Makes what is missing on the way, one name after the other.
async fn with_parents(client: &Client, cred: &Cred, path: &SitePath, mode: u16, plain: u16) -> Result<(), Failure> {
    let names: Vec<&[u8]> = path.as_bytes().split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
    let Some(root) = SitePath::parse("/".into()).ok() else { return Ok(()) };
    let mut at = root;
    for (n, name) in names.iter().enumerate() {
        at = at.join(name);
        let doing = || format!("make directory {at}");
        match client.resolve_follow(cred, at.as_bytes()).await {
            Ok(there) if there.found.kind == Kind::Directory => continue,
            Ok(_) => return Err(Failure::new(format!("{}: it exists and is no directory", doing()))),
            Err(error) if error.refusal() == Some(&Refusal::NoEntry) => {}
            Err(error) => return Err(error).doing(doing()),
        }
        let mode = if n + 1 == names.len() { mode } else { plain };
        let place = client.resolve_parent(cred, at.as_bytes()).await.doing(doing())?;
        match place.volume.mkdir(cred, place.parent, place.name, mode).await {
            // Somebody else was faster.
            Err(error) if matches!(error.refusal(), Some(Refusal::Exists { .. })) => {}
            made => {
                made.doing(doing())?;
            }
        }
    }
    Ok(())
}
