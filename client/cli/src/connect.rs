//! From the command line to a connected client.

use std::time::Duration;

use weft_client::{Client, ClientParts, ConnectOptions};

use crate::args::ConnectArgs;
use crate::failure::{Doing, Failure};

/// Where nothing answers at all, waiting long helps nobody.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
const PROBE_WITHIN: Duration = Duration::from_secs(3);

/// Connects to the site that the command line or the environment names.
pub(crate) async fn connect(args: &ConnectArgs) -> Result<Client, Failure> {
    connect_with(options(args)).await
}

/// What the command line says about the connection; the rest are the library's defaults.
pub(crate) fn options(args: &ConnectArgs) -> ConnectOptions {
    let mut options = ConnectOptions::new(args.connect.iter().cloned());
    options.deadline = Duration::from_secs(args.timeout);
    options
}

/// Connects with these options. Where nobody listens that is said at once.
pub(crate) async fn connect_with(options: ConnectOptions) -> Result<Client, Failure> {
    let within = options.deadline.min(CONNECT_WITHIN);
    let addrs = options.addrs.join(", ");
    let why = match anyone_listens(&options.addrs).await {
        Err(why) => why,
        Ok(()) => match tokio::time::timeout(within, Client::connect(options, ClientParts::real())).await {
            Ok(Ok(client)) => return Ok(client),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", within.as_secs()),
        },
    };
    Err(Failure::new(format!("connect to {addrs}: {why}"))
        .hint("start a site with `weft dev`, or name nodes of yours with --connect HOST:PORT,.. or WEFT_CONNECT"))
}

/// Whether something listens at one of the addresses; else why not.
async fn anyone_listens(addrs: &[String]) -> Result<(), String> {
    let probe = |addr: &String| {
        let addr = addr.clone();
        Box::pin(async move {
            match tokio::time::timeout(PROBE_WITHIN, tokio::net::TcpStream::connect(&addr)).await {
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
        let failure = connect_with(ConnectOptions::new([addr.clone()])).await.err().unwrap();
        assert!(failure.what().unwrap().contains(&addr) && failure.what().unwrap().contains("refused"), "{failure:?}");
        assert!(failure.next().unwrap().contains("weft dev"));
    }
}
