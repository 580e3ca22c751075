//! From the command line to a connected client.

use std::path::{Path, PathBuf};
use std::time::Duration;

use weft_client::{Client, ClientParts, ConnectOptions, Credential};

use crate::args::ConnectArgs;
use crate::failure::{Doing, Failure};

/// Where nothing answers at all, waiting long helps nobody.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
const PROBE_WITHIN: Duration = Duration::from_secs(3);

/// A file that says who somebody is.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    path: PathBuf,
    credential: Credential,
    /// It lies where it is looked for, and nobody named it.
    by_default: bool,
}

impl Shown {
    /// The credential of a file that was named.
    pub(crate) fn load(path: &Path) -> Result<Shown, Failure> {
        let credential = Credential::load(path).map_err(|error| Failure::new(error.to_string()))?;
        Ok(Shown { path: path.to_path_buf(), credential, by_default: false })
    }

    fn parts(&self) -> Result<ClientParts, Failure> {
        ClientParts::with_credential(&self.credential).map_err(|why| {
            Failure::new(format!("credential {}: {why}", self.path.display()))
                .hint("ask whoever runs the site for a new one: weft user add")
        })
    }
}

/// Where a credential is looked for: `~/.config/weft/credential`, as the XDG base directories say.
pub(crate) fn default_credential() -> Option<PathBuf> {
    let config = std::env::var_os("XDG_CONFIG_HOME").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config"));
    Some(config.or_else(home)?.join("weft/credential"))
}

/// The credential that the command line, the environment or the home folder has.
pub(crate) fn credential(args: &ConnectArgs) -> Result<Option<Shown>, Failure> {
    if let Some(path) = &args.credential {
        return Shown::load(path).map(Some);
    }
    match default_credential() {
        Some(path) if path.exists() => Ok(Some(Shown { by_default: true, ..Shown::load(&path)? })),
        _ => Ok(None),
    }
}

/// Connects to the site that the command line or the environment names.
pub(crate) async fn connect(args: &ConnectArgs) -> Result<Client, Failure> {
    connect_with(options(args), credential(args)?.as_ref()).await
}

/// What the command line says about the connection; the rest are the library's defaults.
pub(crate) fn options(args: &ConnectArgs) -> ConnectOptions {
    let mut options = ConnectOptions::new(args.connect.iter().cloned());
    options.deadline = Duration::from_secs(args.timeout);
    options
}

/// Connects with these options, as whom the credential says. Where nobody listens that is said at once.
pub(crate) async fn connect_with(options: ConnectOptions, shown: Option<&Shown>) -> Result<Client, Failure> {
    let within = options.deadline.min(CONNECT_WITHIN);
    let addrs = options.addrs.join(", ");
    let mut parts = match shown {
        Some(shown) => shown.parts()?,
        None => ClientParts::real(),
    };
    let mut answers = anyone_answers(&options.addrs, &parts).await;
    // A credential that happens to lie in the home folder does not keep anybody from a `weft dev` on this machine.
    if shown.is_some_and(|shown| shown.by_default)
        && answers.is_err()
        && options.addrs.iter().all(|addr| is_local(addr))
    {
        let plain = ClientParts::real();
        if speaks_plain(&options, &plain).await {
            (parts, answers) = (plain, Ok(()));
        }
    }
    let why = match answers {
        Err(why) => why,
        Ok(()) => match tokio::time::timeout(within, Client::connect(options, parts)).await {
            Ok(Ok(client)) => return Ok(client),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", within.as_secs()),
        },
    };
    let failure = Failure::new(format!("connect to {addrs}: {why}"));
    Err(failure.hint(match shown {
        None if !why.contains("refused") => {
            "if the site has certificates, name your credential with --credential FILE or WEFT_CREDENTIAL"
        }
        _ => "start a site with `weft dev`, or name nodes of yours with --connect HOST:PORT,.. or WEFT_CONNECT",
    }))
}

fn is_local(addr: &str) -> bool {
    let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host).trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

async fn speaks_plain(options: &ConnectOptions, plain: &ClientParts) -> bool {
    let mut short = options.clone();
    short.deadline = PROBE_WITHIN;
    match tokio::time::timeout(PROBE_WITHIN, Client::connect(short, plain.clone())).await {
        Ok(Ok(client)) => client.close().await.is_ok(),
        Ok(Err(_)) | Err(_) => false,
    }
}

/// Whether somebody to be believed answers at one of the addresses; else why not.
async fn anyone_answers(addrs: &[String], parts: &ClientParts) -> Result<(), String> {
    let probe = |addr: &String| {
        let (addr, dial) = (addr.clone(), parts.dial.clone());
        Box::pin(async move {
            match tokio::time::timeout(PROBE_WITHIN, dial.dial(&addr)).await {
                Ok(connected) => connected.map(drop).map_err(|error| error.to_string()),
                Err(_) => Err(format!("no answer within {} s", PROBE_WITHIN.as_secs())),
            }
        })
    };
    match futures::future::select_ok(addrs.iter().map(probe)).await {
        Ok(((), _)) => Ok(()),
        Err(why) => Err(why),
    }
}

/// Ends a client's sessions. What could not be made durable is told.
pub(crate) async fn close(client: &Client) -> Result<(), Failure> {
    client.close().await.doing("end the session")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn where_nobody_listens_that_is_said_at_once_with_what_to_do() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = free.local_addr().unwrap().to_string();
        drop(free);
        let failure = connect_with(ConnectOptions::new([addr.clone()]), None).await.err().unwrap();
        assert!(failure.what().unwrap().contains(&addr) && failure.what().unwrap().contains("refused"), "{failure:?}");
        assert!(failure.next().unwrap().contains("weft dev"));
    }
}
