//! One file per command.

mod cat;
mod cluster;
pub(crate) mod completions;
mod fsck;
mod get;
mod ls;
mod mkdir;
pub(crate) mod mount;
mod node;
mod place;
mod put;
mod rm;
mod stat;
pub(crate) mod status;
mod sync;
mod user;
mod volume;

use crate::args::{Cli, ClusterCommand, Command, NodeArgs};
use crate::dev;
use crate::failure::Failure;
use crate::interrupt::until_interrupted;
use crate::system;

/// How many threads the command says it wants; `None`: one per processor.
pub(crate) fn threads(command: &Command) -> Result<Option<usize>, Failure> {
    match command {
        Command::Node(args) if args.order.is_none() => {
            Ok(Some(node::settings(args)?.threads).filter(|threads| *threads > 0))
        }
        // Threads of the mount's own take the kernel's requests and do what needs no waiting.
        Command::Mount(_) | Command::Dev(_) => Ok(Some((system::processors() / 2).max(1))),
        _ => Ok(None),
    }
}

/// Does what was asked.
pub(crate) async fn run(cli: Cli) -> Result<(), Failure> {
    let connect = cli.connect;
    match cli.command {
        Command::Dev(args) => dev::run(args).await,
        Command::Node(NodeArgs { order: Some(order), .. }) => place::run(&connect, order).await,
        Command::Node(args) => node::run(args).await,
        Command::Cluster(ClusterCommand::Init { config, name, groups, replication, plain }) => {
            until_interrupted(cluster::init(&connect, config, name, groups, replication, plain)).await
        }
        Command::Cluster(ClusterCommand::Join { config, peer, token }) => {
            until_interrupted(cluster::join(config, peer, token)).await
        }
        Command::Cluster(ClusterCommand::Token { expires }) => {
            until_interrupted(cluster::token(&connect, expires)).await
        }
        Command::Cluster(ClusterCommand::Rotate { authority, drop }) => {
            until_interrupted(cluster::rotate(&connect, authority, drop)).await
        }
        Command::User(command) => until_interrupted(user::run(&connect, command)).await,
        Command::Cluster(ClusterCommand::Status { json }) => until_interrupted(status::run(&connect, json)).await,
        Command::Mount(args) => mount::run(&connect, args).await,
        Command::Sync { path } => until_interrupted(sync::run(path)).await,
        Command::Volume(command) => until_interrupted(volume::run(&connect, command)).await,
        Command::Ls(args) => until_interrupted(ls::run(&connect, args)).await,
        Command::Stat(args) => until_interrupted(stat::run(&connect, args)).await,
        Command::Cat(args) => until_interrupted(cat::run(&connect, args)).await,
        Command::Put(args) => put::run(&connect, args).await,
        Command::Get(args) => get::run(&connect, args).await,
        Command::Rm(args) => until_interrupted(rm::run(&connect, args)).await,
        Command::Mkdir(args) => until_interrupted(mkdir::run(&connect, args)).await,
        Command::Fsck(args) => until_interrupted(fsck::run(&connect, args)).await,
        // Answered before there was a runtime.
        Command::Completions { shell } => completions::run(shell),
    }
}
