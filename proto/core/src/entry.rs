//! What one entry of a group's Raft log says.

use crate::ids::{ClientId, Ino, PrincipalId, Seq, SpaceId, TenantId, VolumeId};
use crate::namespace::op::Op;
use crate::namespace::step::Step;
use crate::namespace::volume::AttachVolume;
use crate::site::SiteCommand;
use crate::time::Timestamp;

/// One entry: the leader's time, who asked, and the command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The leader's wall clock when it proposed. Applying uses the larger of this and the group's last time.
    pub time: Timestamp,
    /// Who asked; `None` for what the leader itself proposes.
    pub caller: Option<Caller>,
    /// What to do.
    pub command: Command,
}

/// The session, the place in it and the credentials of a request: what exactly-once replies and verdicts need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The session's client.
    pub client: ClientId,
    /// The session's space.
    pub space: SpaceId,
    /// The request's number in the session.
    pub seq: Seq,
    /// Replies to lower numbers have arrived and may be forgotten.
    pub acked_below: Seq,
    /// On whose behalf.
    pub cred: Cred,
}

/// On whose behalf a request is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cred {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Supplementary groups.
    pub gids: Vec<u32>,
    /// The asking process, for logs.
    pub pid: u32,
    /// Mode bits that what it makes does not get, where the directory has no default access list.
    pub umask: u16,
    /// Whom the certificate names; 0 until certificates are in use.
    pub principal: PrincipalId,
    /// The tenant of the asking principal.
    pub tenant: TenantId,
}

impl Cred {
    /// The superuser, for what the fabric does itself.
    pub fn root() -> Cred {
        Cred::default()
    }
}

/// Everything that can change a group's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Changes what the system group keeps. Only in the system group.
    Site(SiteCommand),
    /// Makes a session known to this group. Repeating it changes nothing.
    OpenSession {
        /// Whose.
        client: ClientId,
        /// For the volumes of which space.
        space: SpaceId,
    },
    /// The same for a user: nobody else may ask in that session. Refused if it is another's.
    OwnSession {
        /// Whose.
        client: ClientId,
        /// For the volumes of which space.
        space: SpaceId,
        /// The user.
        owner: PrincipalId,
    },
    /// Ends a session: its later requests are refused, its orphans lose their holder, its unreferenced chunks may go.
    EndSession {
        /// Whose.
        client: ClientId,
        /// Of which space.
        space: SpaceId,
    },
    /// A client said that it will not name chunks below a counter any more: from now on it can't.
    NameNoneBelow {
        /// Whose.
        client: ClientId,
        /// Of which space.
        space: SpaceId,
        /// The lowest it may still name for the first time.
        counter: u64,
    },
    /// Makes a volume's records in its group. Repeating it changes nothing.
    AttachVolume(AttachVolume),
    /// Sets a volume's limits; 0 is none. What is there already stays, even above them. `Done`.
    SetQuota {
        /// The volume.
        volume: VolumeId,
        /// Most bytes that extents may hold.
        max_bytes: u64,
        /// Most inodes.
        max_inodes: u64,
    },
    /// A client's change of a volume's namespace.
    Op {
        /// The volume.
        volume: VolumeId,
        /// The change.
        op: Op,
    },
    /// Takes a write lease away from a holder that was silent for too long. What it still holds back is refused.
    Revoke {
        /// The volume.
        volume: VolumeId,
        /// The directory.
        dir: Ino,
        /// From whom; nothing happens if another holds it by now.
        client: ClientId,
    },
    /// A bounded piece of background work, proposed by the leader.
    Step(Step),
    /// Lets later entries use what this level added. Never lowers it.
    RaiseFeatureLevel(u32),
    /// Changes nothing: every replica keeps for a while how its records stand here, so that they can be compared. The
    /// number tells one mark from another. `Done`.
    Mark(u64),
}
