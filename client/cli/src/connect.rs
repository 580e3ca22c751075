//! From the command line to a connected client.

use std::time::Duration;

use weft_client::{Client, ClientParts, ConnectOptions};

use crate::args::ConnectArgs;
use crate::failure::Failure;

/// Where nothing answers at all, waiting long helps nobody.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

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

/// Connects with these options.
pub(crate) async fn connect_with(options: ConnectOptions) -> Result<Client, Failure> {
    let within = options.deadline.min(CONNECT_WITHIN);
    let addrs = options.addrs.join(", ");
    let why = match tokio::time::timeout(within, Client::connect(options, ClientParts::real())).await {
        Ok(Ok(client)) => return Ok(client),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", within.as_secs()),
    };
    Err(Failure::new(format!("connect to {addrs}: {why}"))
        .hint("start a site with `weft dev`, or name nodes of yours with --connect HOST:PORT,.. or WEFT_CONNECT"))
}

/// Ends a client's sessions. What could not be made durable is told.
pub(crate) async fn close(client: &Client) -> Result<(), Failure> {
    use crate::failure::Doing;
    client.close().await.doing("end the session")
}
