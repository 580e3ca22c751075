//! Refusals are answers: what was asked can't be, and why, with the values needed to act on it.

use crate::ids::{ClientId, GroupId, Ino, NodeId, PgEpoch, PgId, Seq, SlotId, SpaceId, VolumeId};

/// Why a request was refused. One table in `weft-proto` turns it into a gRPC status, [`Refusal::errno`] into errno.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    // -- the namespace's own --
    /// ENOENT.
    #[error("no such entry")]
    NoEntry,
    /// ESTALE: an inode that does not exist (any more).
    #[error("inode {ino} of volume {volume} does not exist")]
    NoInode {
        /// Of which volume.
        volume: VolumeId,
        /// Which.
        ino: Ino,
    },
    /// EEXIST.
    #[error("the name is taken by inode {ino}")]
    Exists {
        /// By which inode.
        ino: Ino,
    },
    /// ENOTDIR.
    #[error("inode {ino} is not a directory")]
    NotDirectory {
        /// Which.
        ino: Ino,
    },
    /// EISDIR.
    #[error("inode {ino} is a directory")]
    IsDirectory {
        /// Which.
        ino: Ino,
    },
    /// ENOTEMPTY.
    #[error("directory {ino} is not empty")]
    NotEmpty {
        /// Which.
        ino: Ino,
    },
    /// EINVAL: a rename of a directory into itself.
    #[error("directory {ino} would become its own descendant")]
    Loop {
        /// Which.
        ino: Ino,
    },
    /// ELOOP: a tree deeper than [`crate::limits::MAX_DEPTH`].
    #[error("the tree is too deep")]
    TooDeep,
    /// EMLINK.
    #[error("inode {ino} has too many links")]
    TooManyLinks {
        /// Which.
        ino: Ino,
    },
    /// ENAMETOOLONG.
    #[error("a name of {len} bytes is longer than 255")]
    NameTooLong {
        /// Its length.
        len: u64,
    },
    /// EINVAL.
    #[error("not a name: empty, `.`, `..`, or with `/` or NUL")]
    BadName,
    /// EACCES: the mode bits say no.
    #[error("permission denied")]
    Denied,
    /// EPERM: only the owner or the superuser may.
    #[error("operation not permitted")]
    NotPermitted,
    /// EFBIG.
    #[error("a file of {size} bytes is too large")]
    FileTooBig {
        /// The size asked for.
        size: u64,
    },
    /// EINVAL.
    #[error("invalid argument: {why}")]
    Invalid {
        /// What is wrong with it.
        why: String,
    },
    /// EOPNOTSUPP.
    #[error("not supported: {what}")]
    Unsupported {
        /// What.
        what: String,
    },
    /// ENODATA: no such extended attribute.
    #[error("no such attribute")]
    NoXattr,
    /// EEXIST: the extended attribute is there already.
    #[error("the attribute exists")]
    XattrExists,
    /// ERANGE.
    #[error("an attribute name of {len} bytes is longer than 255")]
    XattrNameTooLong {
        /// Its length.
        len: u64,
    },
    /// E2BIG.
    #[error("an attribute value of {len} bytes is longer than 64 KiB")]
    XattrTooBig {
        /// Its length.
        len: u64,
    },
    /// ENOSPC: more attribute names than listxattr could return.
    #[error("too many attributes on inode {ino}")]
    TooManyXattrs {
        /// On which.
        ino: Ino,
    },
    /// EDQUOT.
    #[error("the volume's quota is used up")]
    QuotaExceeded,
    /// ENOSPC.
    #[error("no space left: {why}")]
    NoSpace {
        /// What ran out.
        why: String,
    },
    /// EXDEV.
    #[error("the two are in different volumes")]
    CrossVolume,
    /// EBUSY: a junction or a volume root can't be removed or renamed this way.
    #[error("busy: {why}")]
    InUse {
        /// Why.
        why: String,
    },
    /// Another client holds a write lease on the directory (or the asker itself, and changes it past what it holds
    /// back): the leader recalls it and tries again.
    #[error("directory {dir} of volume {volume} is leased")]
    Leased {
        /// Of which volume.
        volume: VolumeId,
        /// Which.
        dir: Ino,
    },
    /// EIO: a held-back change came after its write lease was taken away.
    #[error("the write lease on directory {dir} is no longer held")]
    NoLease {
        /// On which directory.
        dir: Ino,
    },
    /// An earlier truncation of the file is still being finished: the leader takes its next step and tries again.
    #[error("truncation of inode {ino} is still being finished")]
    CutPending {
        /// Of which file.
        ino: Ino,
    },

    // -- sessions and exactly-once --
    /// EIO: the session was ended; unanswered requests of it are lost, never repeated under a new one.
    #[error("the session of client {client} in space {space} has ended")]
    SessionEnded {
        /// Whose.
        client: ClientId,
        /// Of which space.
        space: SpaceId,
    },
    /// The session is not known here: open it first.
    #[error("the session of client {client} in space {space} is not open")]
    NoSession {
        /// Whose.
        client: ClientId,
        /// Of which space.
        space: SpaceId,
    },
    /// The number lies below the client's own acknowledged mark.
    #[error("request {seq} was acknowledged before")]
    SeqTooLow {
        /// The number.
        seq: Seq,
    },
    /// More than [`crate::limits::MAX_WINDOW`] requests unacknowledged: wait for answers first.
    #[error("too many requests in flight: {seq} is beyond the window")]
    WindowFull {
        /// The number.
        seq: Seq,
    },
    /// EIO: the client names a chunk that it may not name.
    #[error("chunk may not be named: {why}")]
    ChunkNotYours {
        /// Why.
        why: String,
    },

    // -- where and when --
    /// ENOENT: no such volume.
    #[error("no such volume: {what}")]
    NoVolume {
        /// Its name or number.
        what: String,
    },
    /// EEXIST: the volume's name is taken.
    #[error("a volume named {name} exists")]
    VolumeExists {
        /// The name.
        name: String,
    },
    /// ENOENT.
    #[error("no such slot: {slot}")]
    NoSlot {
        /// Which.
        slot: SlotId,
    },
    /// This replica does not lead the group: ask the leader.
    #[error("this node does not lead group {group}")]
    NotLeader {
        /// Which group.
        group: GroupId,
        /// Who leads it as far as this node knows.
        leader: Option<NodeId>,
    },
    /// The node holds no replica of the group, or no such role.
    #[error("this node does not serve {what}")]
    NotServed {
        /// What.
        what: String,
    },
    /// Try again later.
    #[error("busy: try again in {retry_after_ms} ms")]
    Busy {
        /// When.
        retry_after_ms: u32,
    },
    /// The answer did not come in time: what was asked may or may not have happened.
    #[error("unknown outcome: {why}")]
    Unknown {
        /// What stood in the way.
        why: String,
    },
    /// The two speak different protocol versions.
    #[error("protocol version {theirs} is not spoken here: {ours}")]
    WrongVersion {
        /// What the caller speaks.
        theirs: u32,
        /// What the answerer speaks.
        ours: u32,
    },
    /// The message exceeds a limit.
    #[error("{what} is too large: {size}, at most {limit}")]
    TooLarge {
        /// Of what.
        what: String,
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// The node is of another life or another site than the caller thinks.
    #[error("wrong recipient: {why}")]
    WrongRecipient {
        /// In what way.
        why: String,
    },

    /// EACCES: who asks is not believed, or may not ask this. The same request may succeed with another credential.
    #[error("not trusted: {why}")]
    NotTrusted {
        /// Why.
        why: String,
    },

    // -- chunks --
    /// The caller's placement table is older than the server's: fetch the site map and try again.
    #[error("placement group {pg} is at epoch {epoch}")]
    StalePlacement {
        /// Which group.
        pg: PgId,
        /// The server's epoch.
        epoch: PgEpoch,
    },
    /// The server may not acknowledge: it is no serving member of the group, or its lease ran out.
    #[error("may not acknowledge: {why}")]
    MayNotAcknowledge {
        /// Why.
        why: String,
    },
    /// The chunk is not on this server.
    #[error("chunk is not here")]
    NoChunk,
    /// Bytes on media or on the way do not match their sums.
    #[error("checksum mismatch: {what}")]
    BadSum {
        /// Of what.
        what: String,
    },
    /// EIO: the disk failed.
    #[error("disk failure: {why}")]
    DiskFailed {
        /// How.
        why: String,
    },
}

/// Errno values of Linux, so that the crate needs no libc.
pub mod errno {
    #![allow(missing_docs)]
    pub const EPERM: i32 = 1;
    pub const ENOENT: i32 = 2;
    pub const EIO: i32 = 5;
    pub const E2BIG: i32 = 7;
    pub const EAGAIN: i32 = 11;
    pub const EACCES: i32 = 13;
    pub const EBUSY: i32 = 16;
    pub const EEXIST: i32 = 17;
    pub const EXDEV: i32 = 18;
    pub const ENOTDIR: i32 = 20;
    pub const EISDIR: i32 = 21;
    pub const EINVAL: i32 = 22;
    pub const EFBIG: i32 = 27;
    pub const ENOSPC: i32 = 28;
    pub const EMLINK: i32 = 31;
    pub const ERANGE: i32 = 34;
    pub const ENAMETOOLONG: i32 = 36;
    pub const ENOTEMPTY: i32 = 39;
    pub const ELOOP: i32 = 40;
    pub const ENODATA: i32 = 61;
    pub const EPROTO: i32 = 71;
    pub const EOPNOTSUPP: i32 = 95;
    pub const ESTALE: i32 = 116;
    pub const EDQUOT: i32 = 122;
}

impl Refusal {
    /// What a mount tells the kernel: one table, no wildcard.
    pub fn errno(&self) -> i32 {
        use errno::*;
        match self {
            Refusal::NoEntry | Refusal::NoVolume { .. } | Refusal::NoSlot { .. } => ENOENT,
            Refusal::NoInode { .. } => ESTALE,
            Refusal::Exists { .. } | Refusal::XattrExists | Refusal::VolumeExists { .. } => EEXIST,
            Refusal::NotDirectory { .. } => ENOTDIR,
            Refusal::IsDirectory { .. } => EISDIR,
            Refusal::NotEmpty { .. } => ENOTEMPTY,
            Refusal::Loop { .. } | Refusal::BadName | Refusal::Invalid { .. } => EINVAL,
            Refusal::TooDeep => ELOOP,
            Refusal::TooManyLinks { .. } => EMLINK,
            Refusal::NameTooLong { .. } => ENAMETOOLONG,
            Refusal::Denied | Refusal::NotTrusted { .. } => EACCES,
            Refusal::NotPermitted => EPERM,
            Refusal::FileTooBig { .. } => EFBIG,
            Refusal::Unsupported { .. } => EOPNOTSUPP,
            Refusal::NoXattr => ENODATA,
            Refusal::XattrNameTooLong { .. } => ERANGE,
            Refusal::XattrTooBig { .. } | Refusal::TooLarge { .. } => E2BIG,
            Refusal::TooManyXattrs { .. } | Refusal::NoSpace { .. } => ENOSPC,
            Refusal::QuotaExceeded => EDQUOT,
            Refusal::CrossVolume => EXDEV,
            Refusal::InUse { .. } => EBUSY,
            Refusal::CutPending { .. } | Refusal::Leased { .. } | Refusal::Busy { .. } | Refusal::WindowFull { .. } => {
                EAGAIN
            }
            Refusal::WrongVersion { .. } => EPROTO,
            Refusal::SessionEnded { .. }
            | Refusal::NoSession { .. }
            | Refusal::NoLease { .. }
            | Refusal::SeqTooLow { .. }
            | Refusal::ChunkNotYours { .. }
            | Refusal::NotLeader { .. }
            | Refusal::NotServed { .. }
            | Refusal::Unknown { .. }
            | Refusal::WrongRecipient { .. }
            | Refusal::StalePlacement { .. }
            | Refusal::MayNotAcknowledge { .. }
            | Refusal::NoChunk
            | Refusal::BadSum { .. }
            | Refusal::DiskFailed { .. } => EIO,
        }
    }
}
