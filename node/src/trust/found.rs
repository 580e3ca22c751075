//! How trust begins: the first node of a site makes the authority, its own certificate, and the credential of the
//! administrator. The authority's key waits in the folder until the system group has it, then it is removed.

use std::path::Path;

use bytes::Bytes;
use weft_core::access::principal::{ADMIN, IdRanges, Principal};
use weft_core::codec;
use weft_core::entry::{Command, Entry};
use weft_core::ids::{PrincipalId, TenantId};
use weft_core::site::SiteCommand;
use weft_core::site::trust::{Secret, TrustCommand};
use weft_core::time::Timestamp;
use weft_proto::trust::{Credential, Held, Name, NodeName, UserName, new_key};

use super::authority::{self, NODE_S, SignError, USER_S};
use super::keeper;
use crate::identity::{FolderError, Identity, disk_error};
use crate::parts::{Disk, Parts};

/// What the system group is to be told of trust first.
pub const FOUNDING_FILE: &str = "founding";

/// Makes the authority of a new site, and of its first node one that has a certificate. Returns the administrator's
/// credential, which is kept nowhere else.
///
/// # Errors
/// The disk failed, or no certificate can be made.
pub async fn found(identity: &Identity, parts: &Parts) -> Result<Credential, FoundError> {
    let now = parts.clock.now().secs;
    let authority = authority::make(identity.site, now, None)?;
    let authorities = vec![authority.certificate.to_vec()];
    let signed = |name: &Name, until: i64| -> Result<Credential, SignError> {
        let key = new_key().map_err(|error| SignError::of(&error))?;
        let certificate = authority::sign(&authority, name, &key.public, now, until)?;
        Ok(Credential {
            held: Held { certificate, key: key.private, authorities: authorities.clone(), crosses: Vec::new() },
            until,
        })
    };
    let admin = Principal {
        id: PrincipalId(1),
        name: "admin".into(),
        tenant: TenantId(0),
        groups: Vec::new(),
        roles: vec![ADMIN.into()],
        uids: IdRanges::all(),
        gids: IdRanges::all(),
    };
    let (node_until, user_until) = (now + NODE_S, now + USER_S);
    let node = signed(&Name::Node(NodeName { site: identity.site, replica: identity.replica() }), node_until)?;
    let user = signed(&Name::User(UserName { site: identity.site, principal: admin.clone() }), user_until)?;
    let mut key = Vec::with_capacity(32);
    (0..4).for_each(|_| key.extend_from_slice(&parts.dice.roll().to_be_bytes()));
    let command = TrustCommand::Found { authority, key: Secret(key.into()), admin, until: user_until };
    let entry = Entry { time: Timestamp::default(), caller: None, command: Command::Site(SiteCommand::Trust(command)) };
    let bytes = codec::encode_entry(&entry);
    let written = parts.disk.write_small(Path::new(FOUNDING_FILE), &bytes).await;
    written.map_err(|source| disk_error("write founding in the data folder", source))?;
    keeper::write(&*parts.disk, &node).await?;
    Ok(user)
}

/// Why trust could not begin.
#[derive(Debug, thiserror::Error)]
pub enum FoundError {
    /// The disk failed.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// No certificate can be made.
    #[error(transparent)]
    Sign(#[from] SignError),
}

/// What the system group is yet to be told of trust, if anything.
///
/// # Errors
/// It is damaged, or the disk failed.
pub async fn founding(disk: &dyn Disk) -> Result<Option<SiteCommand>, FolderError> {
    let bytes: Bytes = match disk.read_small(Path::new(FOUNDING_FILE)).await {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(disk_error("read founding in the data folder", source)),
    };
    match codec::decode_entry(&bytes).map(|entry| entry.command) {
        Ok(Command::Site(command @ SiteCommand::Trust(TrustCommand::Found { .. }))) => Ok(Some(command)),
        _ => Err(FolderError::Damaged { file: FOUNDING_FILE, why: "it is not what was written".into() }),
    }
}

/// The system group knows: the authority's key leaves the folder.
///
/// # Errors
/// The disk failed.
pub async fn founded(disk: &dyn Disk) -> Result<(), FolderError> {
    match disk.remove(Path::new(FOUNDING_FILE)).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(disk_error("remove founding in the data folder", error))
        }
        _ => Ok(()),
    }
}
