//! `weft cat PATH..`.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;

use crate::args::{CatArgs, ConnectArgs};
use crate::connect::{close, connect};
use crate::failure::{Doing, Failure};
use crate::{output, system};

/// Writes the files to standard output, one behind the other.
pub(crate) async fn run(to: &ConnectArgs, args: CatArgs) -> Result<(), Failure> {
    let client = connect(to).await?;
    let cred = system::cred();
    for path in &args.paths {
        client.copy_out(&cred, path.as_bytes(), &mut Stdout, &mut |_| {}).await.doing(format!("read {path}"))?;
    }
    close(&client).await
}

/// Standard output, written by whoever polls: the process has nothing else to do while its reader is slow.
pub(crate) struct Stdout;

impl AsyncWrite for Stdout {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(match output::bytes(data) {
            Ok(()) => Ok(data.len()),
            Err(failure) => Err(io::Error::other(failure.what().unwrap_or_default().to_string())),
        })
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
