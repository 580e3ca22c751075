//! The Weft client library: everything a program can do with a site, without a mount.
//!
//! A [`Client`] is connected to one site through any of its nodes. A [`Volume`] is a tree of files in it; its methods
//! are the calls of POSIX on inode numbers, each with the [`Cred`] on whose behalf it is made. A [`File`] is an open
//! file: writes are gathered and uploaded in the background, [`File::flush`] makes them durable and visible.
//!
//! ```no_run
//! # async fn example() -> weft_client::Result<()> {
//! use bytes::Bytes;
//! use weft_client::{Client, ClientParts, ConnectOptions, Cred, Ino, Name};
//!
//! let client = Client::connect(ConnectOptions::new(["127.0.0.1:7400"]), ClientParts::real()).await?;
//! let volume = client.volume("root").await?;
//! let cred = Cred::root();
//! let name = Name::parse("hello.txt")?;
//! let (file, _attr, _fresh) = volume.create_file(&cred, Ino::ROOT, name, 0o644, false).await?;
//! file.write_at(0, Bytes::from_static(b"hello")).await?;
//! file.close().await?; // durable and visible to everyone from here on
//! client.close().await
//! # }
//! ```
//!
//! # What always holds
//! - A change is answered once it is durable; a lost answer is asked for again under the same number until it is known
//!   or [`ConnectOptions::deadline`] has passed, so nothing happens twice.
//! - Every byte read was checked against the sums its writer made; another replica is asked where they fail.
//! - All opens of one file in one client see each other's writes at once; other clients see them after
//!   [`File::flush`] or [`File::close`], and this client sees theirs when it opens the file or within a second.
//! - An error of a background upload is reported at the next write, flush or close of every handle that was open.
//!
//! Everything runs on the caller's tokio runtime; there are no threads.

#[cfg(test)]
extern crate self as weft_client;

mod budget;
mod chunks;
mod client;
mod copy;
mod error;
#[cfg(test)]
mod fake;
mod file;
pub mod fsck;
mod grpc;
mod lease;
mod meta;
mod options;
pub mod parts;
mod path;
mod place;
mod servers;
mod session;
mod status;
mod topology;
mod trial;
mod trust;
mod volume;

pub use client::Client;
pub use error::{Error, Result};
pub use file::File;
pub use lease::LeaseStats;
pub use options::ConnectOptions;
pub use parts::{ClientParts, Credential, CredentialError, Distrust};
pub use path::{Resolved, ResolvedParent};
pub use status::{CatchUp, ChunkHealth, GroupReport, NodeReport};
pub use trust::{NewUser, User, Whoami};
pub use volume::{Listing, Renamed, Volume};

pub use weft_core::entry::Cred;
pub use weft_core::ids::{GroupId, Incarnation, Ino, NodeId, ReplicaId, SlotId, SpaceId, ViewId, VolumeId};
pub use weft_core::name::{Name, XattrName};
pub use weft_core::namespace::inode::{Attr, Dirent, Extent, ExtentBody, Kind, SlotRef};
pub use weft_core::namespace::op::{AllocateMode, RenameMode, SetAttr, SetTime, XattrMode};
pub use weft_core::namespace::query::{Found, ListedEntry, VolumeUse};
pub use weft_core::refusal::Refusal;
pub use weft_core::site::{self, SiteMap};
pub use weft_core::time::Timestamp;
