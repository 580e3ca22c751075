//! What can be asked of `weft`, and the help that teaches it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, builder::ValueParser};
use clap_complete::Shell;

use crate::path::SitePath;

const TOP_EXAMPLES: &str = "\
Try it:
  weft dev --nodes 3 --mount /tmp/weft    three nodes on this machine, mounted; Ctrl-C stops them
  weft ls -l /                            what is in the site
  weft put -r src /                       copy a tree in
  weft cluster status                     how the nodes are

Every command tells more with --help.
Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 130 interrupted; `weft fsck` has two more.
WEFT_LOG sets what is logged to standard error: error, warn, info, debug, weft_node=debug.";

/// Weft: one namespace of files over many machines.
#[derive(Debug, Parser)]
#[command(name = "weft", version, after_help = TOP_EXAMPLES, max_term_width = 110, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How to reach a site.
#[derive(Clone, Debug, Args)]
pub(crate) struct ConnectArgs {
    /// Some nodes of the site; one that answers is enough
    #[arg(long, global = true, env = "WEFT_CONNECT", value_name = "HOST:PORT,..", value_delimiter = ',')]
    #[arg(default_value = "127.0.0.1:7400", help_heading = "Connection", value_parser = ValueParser::new(address))]
    pub(crate) connect: Vec<String>,
    /// Seconds to go on trying a request before giving up
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 60, help_heading = "Connection")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) timeout: u64,
    /// The file that says who you are; made by `weft cluster init` and `weft user add`. By default
    /// ~/.config/weft/credential, if it is there
    #[arg(long, global = true, env = "WEFT_CREDENTIAL", value_name = "FILE", help_heading = "Connection")]
    pub(crate) credential: Option<PathBuf>,
}

/// `weft user`.
#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// Make a user, and write the credential that makes its holder one
    #[command(after_help = "\
Examples:
  weft user add anna --uids 1000 --out anna.credential
  weft user add build --uids 2000-2099 --gids 100,2000-2099 --days 30
  weft user add boss --role admin --uids '*' --gids '*'
Give the file to whoever it is for; it belongs at ~/.config/weft/credential, mode 0600. The site does
not keep it: if it is lost, revoke the user and make another one.")]
    Add {
        /// Letters, digits, `.`, `_`, `-`
        name: String,
        /// Groups of people the user is in
        #[arg(long = "group", value_name = "NAME", value_delimiter = ',')]
        groups: Vec<String>,
        /// Roles; `admin` may change the site: volumes, nodes, users
        #[arg(long = "role", value_name = "NAME", value_delimiter = ',')]
        roles: Vec<String>,
        /// Number of the tenant whose volumes the user sees; 0 sees those of all
        #[arg(long, value_name = "N", default_value_t = 0)]
        tenant: u32,
        /// User ids it may speak for, such as 1000 or 1000-1999,2500; `*` is all, root too. By default none: then whoever
        /// asks as root is nobody
        #[arg(long, value_name = "IDS", default_value = "")]
        uids: String,
        /// Group ids it may speak for; by default the same numbers as --uids
        #[arg(long, value_name = "IDS")]
        gids: Option<String>,
        /// Days for which the credential is good
        #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
        /// Where to write the credential; by default NAME.credential
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Write another credential for a user: before the last one expires, or after `weft cluster rotate --authority`
    Renew {
        /// Its name
        name: String,
        /// Days for which the credential is good
        #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
        /// Where to write the credential; by default NAME.credential
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// List the users
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Refuse a user from now on, wherever its credential is
    Revoke {
        /// Its name
        name: String,
    },
    /// Say who you are to the site
    Whoami {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

/// A command.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a whole site on this machine, for trying out and developing against
    #[command(after_help = DEV_EXAMPLES)]
    Dev(DevArgs),
    /// Run one node of a site; or list, drain and remove nodes
    #[command(after_help = NODE_EXAMPLES, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
    Node(NodeArgs),
    /// Make a site, join one, see how it is
    #[command(subcommand, arg_required_else_help = true)]
    Cluster(ClusterCommand),
    /// Mount the site, or one volume of it, as a folder
    #[command(after_help = MOUNT_EXAMPLES)]
    Mount(MountArgs),
    /// Make everything durable that was written through the mount of a path
    ///
    /// `sync` alone proves nothing on a FUSE mount: the kernel does not pass it on.
    #[command(after_help = "Example:\n  tar xf linux.tar && weft sync linux")]
    Sync {
        /// A file or folder in the mount
        path: PathBuf,
    },
    /// Make, list, show and delete volumes
    #[command(subcommand, arg_required_else_help = true)]
    Volume(VolumeCommand),
    /// Make, list and revoke users and their credentials
    #[command(subcommand, arg_required_else_help = true)]
    User(UserCommand),
    /// List a directory
    #[command(after_help = LS_EXAMPLES)]
    Ls(LsArgs),
    /// Show everything about a file or directory
    #[command(after_help = "Example:\n  weft stat /data/a.csv --json")]
    Stat(StatArgs),
    /// Write files to standard output
    #[command(after_help = "Example:\n  weft cat /logs/monday /logs/tuesday | grep error")]
    Cat(CatArgs),
    /// Copy local files into the site
    #[command(after_help = PUT_EXAMPLES)]
    Put(PutArgs),
    /// Copy files of the site to this machine
    #[command(after_help = GET_EXAMPLES)]
    Get(GetArgs),
    /// Remove files and directories
    #[command(after_help = "Examples:\n  weft rm /data/a.csv\n  weft rm -r /data/old")]
    Rm(RmArgs),
    /// Make directories
    #[command(after_help = "Example:\n  weft mkdir -p /data/2026/11")]
    Mkdir(MkdirArgs),
    /// Check that everything is there that is promised; changes nothing, safe on a running site
    ///
    /// Every group's leader recounts its records, and every chunk that a file names must be held by every server that
    /// serves its placement group. What looks wrong is asked again before it is told.
    #[command(after_help = FSCK_EXAMPLES)]
    Fsck(FsckArgs),
    /// Print a completion script for a shell
    #[command(after_help = COMPLETION_EXAMPLES)]
    Completions {
        /// Which shell
        shell: Shell,
    },
}

impl Command {
    /// How much is logged unless `WEFT_LOG` says otherwise: servers tell what happens to them, tools only what is wrong.
    pub(crate) fn default_log(&self) -> &'static str {
        match self {
            Command::Node(NodeArgs { order: None, .. }) => "info,openraft=error",
            _ => "warn,openraft=error",
        }
    }
}

const DEV_EXAMPLES: &str = "\
Examples:
  weft dev                                   one node, data in ./weft-dev
  weft dev --nodes 3 --mount /tmp/weft       three node processes, every chunk kept three times
  weft dev --dir /var/tmp/try                the same folder finds its data again next time
  weft dev --demo                            see it work, then be gone

Each node has a folder DIR/n1, DIR/n2, .. with node.toml, its data and its log. DIR/dev.json
tells scripts addresses and process ids. Ctrl-C unmounts and stops everything; the data stays.";

const NODE_EXAMPLES: &str = "\
Examples:
  weft node --print-config > node.toml       every setting with its words and its default
  weft node --config node.toml               run it; SIGTERM or Ctrl-C stops it cleanly
  weft node list                             all nodes, where they stand and what they hold
  weft node drain 4                          empty node 4, and say when it is safe to take it away

Its data folder must belong to a site: see `weft cluster init` and `weft cluster join`.";

const MOUNT_EXAMPLES: &str = "\
Examples:
  weft mount /mnt/weft                       stays in the foreground; Ctrl-C unmounts
  weft mount --background /mnt/weft          returns once it stands
  fusermount3 -u /mnt/weft                   unmounts
  weft mount --volume team --read-only /mnt/team";

const LS_EXAMPLES: &str = "\
Examples:
  weft ls -l /data
  weft ls --json / | jq -r '.[].name'";

const PUT_EXAMPLES: &str = "\
Examples:
  weft put big.iso /images/                  into a directory
  weft put big.iso /images/new.iso           under another name
  weft put -r src docs /backup               whole trees
  tar c src | weft put - /backup/src.tar     from standard input

A file appears under its name when all of it is durable, never in part; one that was there is
replaced.";

const GET_EXAMPLES: &str = "\
Examples:
  weft get /images/new.iso                   into the current folder
  weft get -r /backup/src /tmp               a whole tree
  weft get /backup/src.tar - | tar t         to standard output";

const FSCK_EXAMPLES: &str = "\
Examples:
  weft fsck                                  records and lists of chunks: minutes at the most
  weft fsck --deep --rate 50                 rereads every copy, 50 MiB/s on each server
  weft fsck --json team | jq .damage         one volume

Exit codes: 0 clean; 3 damage was found; 4 no damage, but copies are lacking or not everything
could be looked at; 1 the check failed; 2 wrong usage; 130 interrupted.";

const COMPLETION_EXAMPLES: &str = "\
Examples:
  weft completions bash > ~/.local/share/bash-completion/completions/weft
  weft completions zsh  > ~/.zfunc/_weft
  weft completions fish > ~/.config/fish/completions/weft.fish";

/// `weft dev`.
#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// Nodes: 1 runs in this process, more are processes of their own. A folder made before keeps its number. Default 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=9))]
    pub(crate) nodes: Option<u32>,
    /// Folder of all data and configuration
    #[arg(long, value_name = "DIR", default_value = "weft-dev")]
    pub(crate) dir: PathBuf,
    /// Mount the site here as well; the folder is made if missing
    #[arg(long, value_name = "PATH")]
    pub(crate) mount: Option<PathBuf>,
    /// Show it working, unattended: three nodes, a mount, a node killed, everything cleaned up at the end
    #[arg(long, conflicts_with_all = ["nodes", "dir", "mount", "port"])]
    pub(crate) demo: bool,
    /// Port of the first node, each further number used in turn; 0 takes free ones. A folder made before keeps its
    /// ports. Default 7400
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<u16>,
    /// With certificates and users, as on real machines; DIR/credential is the administrator's. A folder made before
    /// stays as it is
    #[arg(long, conflicts_with = "demo")]
    pub(crate) tls: bool,
}

/// `weft node`.
#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    #[command(subcommand)]
    pub(crate) order: Option<NodeCommand>,
    /// TOML file with the node's settings
    #[arg(long, value_name = "FILE", required_unless_present = "print_config")]
    pub(crate) config: Option<PathBuf>,
    /// Print the settings as documented TOML and end: those of --config, else the defaults
    #[arg(long)]
    pub(crate) print_config: bool,
    /// End when standard input ends, so that a starter that dies takes its nodes along
    #[arg(long, hide = true)]
    pub(crate) end_with_stdin: bool,
}

/// What is to become of nodes.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// List the nodes: labels, status, what they hold
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Empty a node: others take over what it holds. Waits until it is safe to take the node away
    #[command(after_help = "\
Examples:
  weft node drain 4                wait, with progress; Ctrl-C stops the waiting, not the drain
  weft node drain 4 --no-wait      return at once; ask again to see how far it is
  weft node undrain 4              the node takes part again
When it is safe: stop the node, then `weft node remove 4`.")]
    Drain {
        /// Its number, as `weft node list` shows it
        node: u32,
        /// Return once the site knows it
        #[arg(long)]
        no_wait: bool,
        /// As JSON, at the end
        #[arg(long)]
        json: bool,
    },
    /// End a drain: the node takes part again
    Undrain {
        /// Its number
        node: u32,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Have the site forget a node that was drained, or that is gone for good
    #[command(after_help = "\
Examples:
  weft node remove 4               after `weft node drain 4`
  weft node remove 4 --force       node 4 is dead, and others have copies of what it held
With --force, what was kept in one copy on it is lost.")]
    Remove {
        /// Its number
        node: u32,
        /// Also a dead node that still holds replicas of metadata, or what was kept in one copy
        #[arg(long)]
        force: bool,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

/// `weft cluster`.
#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Make a new site, with the node of a configuration as its first
    #[command(after_help = "\
Example, on the first machine:
  weft cluster init --config node.toml --name lab --replication 3
  weft node --config node.toml
Everything between processes is mutual TLS. The administrator's credential is written where --credential
says, by default to ~/.config/weft/credential: who has it may change the site.
Then join the others: `weft cluster join --help`.")]
    Init {
        /// Settings of the node; its data folder must be empty or missing
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// What people call the site
        #[arg(long)]
        name: String,
        /// Metadata groups for volumes: volumes are spread over them
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
        groups: u32,
        /// Copies of each chunk in the root volume, 1 to 3. Above 1, two nodes at the least must be there to write files
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=3))]
        replication: u8,
        /// In plain text, without certificates and users: only for loopback addresses
        #[arg(long)]
        plain: bool,
    },
    /// Print a word with which one node may join the site
    #[command(after_help = "\
Example:
  weft cluster token --expires 600
It says which site the joiner is to believe too. Whoever has it can join once: pass it on like a password.")]
    Token {
        /// Seconds for which it is good
        #[arg(long, default_value_t = 3600, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=2_592_000))]
        expires: u32,
    },
    /// Make new keys, without a break: of capabilities, or with --authority a new authority
    #[command(after_help = "\
Examples:
  weft cluster rotate                   a new key of capabilities; those made before expire by themselves
  weft cluster rotate --authority       a new authority; nodes take new certificates within seconds
  weft cluster rotate --drop            only the newest authority is believed: users need new credentials first")]
    Rotate {
        /// A new authority signs from now on; the former ones are still believed
        #[arg(long)]
        authority: bool,
        /// Believe only the newest authority
        #[arg(long, conflicts_with = "authority")]
        drop: bool,
    },
    /// Let the node of a configuration join a running site
    #[command(after_help = "\
Example, on the second machine:
  weft cluster join --config node.toml --peer first.example:7400 --token weft-join-..
  weft node --config node.toml")]
    Join {
        /// Settings of the node; its data folder must be empty or missing
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Any running node of the site
        #[arg(long, value_name = "HOST:PORT", value_parser = ValueParser::new(address))]
        peer: String,
        /// What `weft cluster token` printed; `-` reads it from standard input. Not for sites in plain text
        #[arg(long, value_name = "TOKEN", env = "WEFT_JOIN_TOKEN", hide_env_values = true)]
        token: Option<String>,
    },
    /// Show nodes, metadata groups with their leaders, placement health and space
    #[command(after_help = "\
Examples:
  weft cluster status
  until weft cluster status --json | jq -e .healthy; do sleep 1; done")]
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

/// `weft mount`.
#[derive(Debug, Args)]
pub(crate) struct MountArgs {
    /// An existing folder
    pub(crate) path: PathBuf,
    /// Which volume; the root volume shows the others at the junctions made for them
    #[arg(long, value_name = "NAME", default_value = weft_client::site::ROOT_VOLUME)]
    pub(crate) volume: String,
    /// Return once the mount stands, and go on in the background
    #[arg(long)]
    pub(crate) background: bool,
    /// Where a mount in the background logs to
    #[arg(long, value_name = "FILE", requires = "background")]
    pub(crate) log: Option<PathBuf>,
    /// Refuse every change
    #[arg(long)]
    pub(crate) read_only: bool,
    /// When what is made and written below new directories is durable: `relaxed`, at fsync, `weft sync`, unmount, or by
    /// itself within a second and in order; `strict`, at every answer
    #[arg(long, value_enum, default_value_t = Durability::Relaxed)]
    pub(crate) durability: Durability,
    /// Let other users in too, as far as modes allow; the superuser always does. Needs user_allow_other in
    /// /etc/fuse.conf
    #[arg(long)]
    pub(crate) allow_other: bool,
}

/// What a mount promises before fsync.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Durability {
    /// Changes below directories made here are sent in batches, within a second and in order.
    Relaxed,
    /// Every answer is durable.
    Strict,
}

/// `weft volume`.
#[derive(Debug, Subcommand)]
pub(crate) enum VolumeCommand {
    /// Make a volume and a junction to it, so that it is seen in the namespace
    #[command(after_help = "\
Examples:
  weft volume create team                      seen at /team
  weft volume create scratch --replication 1   one copy of each chunk
  weft volume create deep --at /team/deep      seen elsewhere; the parent must exist
  weft volume create hidden --no-junction      only by `weft mount --volume hidden`")]
    Create {
        /// Its name: letters, digits, `_`, `-`, `.`
        name: String,
        /// Copies of each chunk, 1 to 3; by default as many as the root volume keeps
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=3))]
        replication: Option<u8>,
        /// Where it is seen; by default /NAME
        #[arg(long, value_name = "PATH", value_parser = path_parser())]
        at: Option<SitePath>,
        /// Make it without a junction
        #[arg(long, conflicts_with = "at")]
        no_junction: bool,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// List the volumes
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Delete a volume with everything in it; it cannot be had back
    #[command(after_help = "Example:\n  weft volume delete scratch --yes")]
    Delete {
        /// Its name
        name: String,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Show a volume, its use and its limits
    Info {
        /// Its name
        name: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

/// `weft fsck`.
#[derive(Debug, Args)]
pub(crate) struct FsckArgs {
    /// Volumes to check; all if none is named
    #[arg(value_name = "VOLUME")]
    pub(crate) volumes: Vec<String>,
    /// Reread every copy of every chunk, and compare the replicas of the records
    #[arg(long)]
    pub(crate) deep: bool,
    /// MiB that each server rereads in a second at the most; by default as many as it can
    #[arg(long, value_name = "MIB/S", requires = "deep", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) rate: Option<u64>,
    /// As JSON, with everything that was found
    #[arg(long)]
    pub(crate) json: bool,
}

/// `weft ls`.
#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// What to list
    #[arg(value_name = "PATH", default_value = "/", value_parser = path_parser())]
    pub(crate) path: SitePath,
    /// With mode, owner, size and time of the last change (UTC)
    #[arg(short = 'l', long)]
    pub(crate) long: bool,
    /// A directory itself, not what is in it
    #[arg(short = 'd', long)]
    pub(crate) directory: bool,
    /// As JSON, with everything known
    #[arg(long)]
    pub(crate) json: bool,
}

/// `weft stat`.
#[derive(Debug, Args)]
pub(crate) struct StatArgs {
    /// What to show
    #[arg(value_name = "PATH", value_parser = path_parser())]
    pub(crate) path: SitePath,
    /// Show what a symbolic link leads to
    #[arg(short = 'L', long)]
    pub(crate) follow: bool,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `weft cat`.
#[derive(Debug, Args)]
pub(crate) struct CatArgs {
    /// Files of the site
    #[arg(value_name = "PATH", required = true, value_parser = path_parser())]
    pub(crate) paths: Vec<SitePath>,
}

/// What `put` and `get` have in common.
#[derive(Clone, Debug, Args)]
pub(crate) struct TransferArgs {
    /// Directories with all that is in them
    #[arg(short, long)]
    pub(crate) recursive: bool,
    /// Keep the times of the last change
    #[arg(short, long)]
    pub(crate) preserve: bool,
    /// Files to copy at the same time
    #[arg(short, long, default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) jobs: u8,
    /// No progress bar
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Print what was copied as JSON at the end
    #[arg(long)]
    pub(crate) json: bool,
}

/// `weft put`.
#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    /// Local files; `-` is standard input
    #[arg(value_name = "LOCAL", required = true)]
    pub(crate) sources: Vec<PathBuf>,
    /// Where to in the site: a directory, or the name to be
    #[arg(value_name = "PATH", value_parser = path_parser())]
    pub(crate) target: SitePath,
    #[command(flatten)]
    pub(crate) how: TransferArgs,
}

/// `weft get`.
#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// A file of the site, or with -r a directory
    #[arg(value_name = "PATH", value_parser = path_parser())]
    pub(crate) source: SitePath,
    /// Where to: a folder, the name to be, or `-` for standard output
    #[arg(value_name = "LOCAL", default_value = ".")]
    pub(crate) target: PathBuf,
    #[command(flatten)]
    pub(crate) how: TransferArgs,
}

/// `weft rm`.
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// What to remove
    #[arg(value_name = "PATH", required = true, value_parser = path_parser())]
    pub(crate) paths: Vec<SitePath>,
    /// Directories with all that is in them. Stops at junctions: other volumes are never emptied
    #[arg(short, long)]
    pub(crate) recursive: bool,
    /// What is missing is as good as removed
    #[arg(short, long)]
    pub(crate) force: bool,
}

/// `weft mkdir`.
#[derive(Debug, Args)]
pub(crate) struct MkdirArgs {
    /// Directories to make
    #[arg(value_name = "PATH", required = true, value_parser = path_parser())]
    pub(crate) paths: Vec<SitePath>,
    /// Make missing parents too; what exists already is fine
    #[arg(short, long)]
    pub(crate) parents: bool,
    /// Permission bits, octal
    #[arg(short, long, value_name = "MODE", value_parser = ValueParser::new(mode))]
    pub(crate) mode: Option<u16>,
}

fn path_parser() -> ValueParser {
    use clap::builder::TypedValueParser;
    clap::builder::OsStringValueParser::new().try_map(SitePath::parse).into()
}

fn address(text: &str) -> Result<String, String> {
    let text = text.trim();
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0) => {
            Ok(text.to_string())
        }
        _ => Err("an address is HOST:PORT, such as 127.0.0.1:7400".into()),
    }
}

fn mode(text: &str) -> Result<u16, String> {
    match u16::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        _ => Err("a mode is an octal number up to 7777, such as 755".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(args: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(["weft"].iter().chain(args))
    }

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn addresses() {
        let cli = parse(&["--connect", "a:1,b:2", "ls"]).unwrap();
        assert_eq!(cli.connect.connect, ["a:1", "b:2"]);
        let cli = parse(&["ls", "/x", "--connect", "[::1]:7400", "--timeout", "5"]).unwrap();
        assert_eq!((cli.connect.connect, cli.connect.timeout), (vec!["[::1]:7400".to_string()], 5));
        for bad in ["a", "a:", ":1", "a:x", "a:70000", "a:1,,b:2"] {
            assert!(parse(&["--connect", bad, "ls"]).is_err(), "{bad}");
        }
    }

    #[test]
    fn usage_errors_say_what_is_wrong() {
        let said = |args: &[&str]| parse(args).unwrap_err().to_string();
        assert!(said(&["ls", "data"]).contains("begin with `/`"));
        assert!(said(&["node"]).contains("--config"));
        assert!(said(&["node", "--config", "a", "drain", "4"]).contains("cannot be used"));
        assert!(said(&["node", "drain", "four"]).contains("four"));
        assert!(said(&["mkdir", "-m", "99", "/a"]).contains("octal"));
        assert!(said(&["dev", "--nodes", "10"]).contains("1..=9"));
        assert!(said(&["volume", "create", "x", "--replication", "4"]).contains("1..=3"));
    }

    #[test]
    fn a_node_is_run_or_spoken_of() {
        let Command::Node(run) = parse(&["node", "--config", "n.toml"]).unwrap().command else { panic!("node") };
        assert!(run.order.is_none() && run.config.is_some());
        let cli = parse(&["node", "drain", "4", "--no-wait", "--connect", "a:1"]).unwrap();
        let Command::Node(args) = cli.command else { panic!("node") };
        assert!(matches!(args.order, Some(NodeCommand::Drain { node: 4, no_wait: true, json: false })));
    }

    #[test]
    fn the_last_operand_of_put_is_its_target() {
        let Command::Put(put) = parse(&["put", "-r", "a", "b", "/c"]).unwrap().command else { panic!("put") };
        assert_eq!(put.sources, [PathBuf::from("a"), PathBuf::from("b")]);
        assert_eq!(put.target.to_string(), "/c");
        assert!(parse(&["put", "a"]).is_err());
    }
}
