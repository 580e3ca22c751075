//! `weft node`.

use std::future::pending;

use tokio::io::AsyncReadExt;
use weft_node::settings::Settings;

use crate::args::NodeArgs;
use crate::failure::Failure;
use crate::interrupt::Interrupts;
use crate::{local_node, output};

/// Runs a node until it is told to end.
pub(crate) async fn run(args: NodeArgs) -> Result<(), Failure> {
    let settings = settings(&args)?;
    if args.print_config {
        return output::bytes(settings.documented_toml().as_bytes());
    }
    // Before the start: a node that is still starting can be stopped too.
    let mut interrupts = Interrupts::take()?;
    let started = tokio::select! {
        biased;
        () = interrupts.next() => return Ok(()),
        () = starter_gone(args.end_with_stdin) => return Ok(()),
        started = local_node::start(settings) => started?,
    };
    let ended = tokio::select! {
        biased;
        () = interrupts.next() => Ok(()),
        () = starter_gone(args.end_with_stdin) => Ok(()),
        () = started.ended() => Err(Failure::new("the node serves no more").hint("its log says why")),
    };
    // A second signal ends it at once: what was acknowledged is durable.
    tokio::select! {
        biased;
        () = interrupts.next() => Err(Failure::interrupted()),
        () = started.shutdown() => ended,
    }
}

/// What the node's file says, or the defaults.
pub(crate) fn settings(args: &NodeArgs) -> Result<Settings, Failure> {
    match &args.config {
        Some(config) => local_node::load(config),
        None => Ok(Settings::default()),
    }
}

/// Returns when standard input ends; never if nobody cares.
async fn starter_gone(cares: bool) {
    if !cares {
        return pending().await;
    }
    let mut input = tokio::io::stdin();
    let mut ignored = [0; 64];
    while matches!(input.read(&mut ignored).await, Ok(1..)) {}
}
