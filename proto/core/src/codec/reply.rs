//! Outcomes and refusals.

use super::wire::{Code, CodecError, Reader, Writer, code_enum, code_struct};
use crate::namespace::inode::Attr;
use crate::namespace::outcome::Outcome;
use crate::refusal::Refusal;

impl Code for Result<Outcome, Refusal> {
    fn put(&self, out: &mut Writer) {
        match self {
            Ok(outcome) => {
                out.u8(0);
                outcome.put(out);
            }
            Err(refusal) => {
                out.u8(1);
                refusal.put(out);
            }
        }
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(if bool::take(from)? { Err(Refusal::take(from)?) } else { Ok(Outcome::take(from)?) })
    }

    #[cfg(test)]
    fn any(dice: &mut super::tests::Dice) -> Self {
        if dice.below(2) == 0 { Ok(Outcome::any(dice)) } else { Err(Refusal::any(dice)) }
    }

    #[cfg(test)]
    fn each(dice: &mut super::tests::Dice) -> Vec<Self> {
        let outcomes = Outcome::each(dice).into_iter().map(Ok);
        outcomes.chain(Refusal::each(dice).into_iter().map(Err)).collect()
    }
}

code_enum!(Outcome {
    1 => Done,
    2 => Created { attr, fresh },
    3 => Attr(attr),
    4 => Removed { attr },
    5 => Renamed { attr, replaced },
    6 => Copied { len, attr },
    7 => Stepped { more },
    8 => Site(outcome),
    9 => Leased { first, dir, now },
    10 => Held { refused },
});
code_struct!(Attr {
    volume,
    ino,
    kind,
    mode,
    uid,
    gid,
    nlink,
    size,
    allocated,
    rdev,
    atime,
    mtime,
    ctime,
    btime,
    generation,
    version,
    parent,
    acl,
    default_acl,
});

code_enum!(Refusal {
    1 => NoEntry,
    2 => NoInode { volume, ino },
    3 => Exists { ino },
    4 => NotDirectory { ino },
    5 => IsDirectory { ino },
    6 => NotEmpty { ino },
    7 => Loop { ino },
    8 => TooDeep,
    9 => TooManyLinks { ino },
    10 => NameTooLong { len },
    11 => BadName,
    12 => Denied,
    13 => NotPermitted,
    14 => FileTooBig { size },
    15 => Invalid { why },
    16 => Unsupported { what },
    17 => NoXattr,
    18 => XattrExists,
    19 => XattrNameTooLong { len },
    20 => XattrTooBig { len },
    21 => TooManyXattrs { ino },
    22 => QuotaExceeded,
    23 => NoSpace { why },
    24 => CrossVolume,
    25 => InUse { why },
    26 => CutPending { ino },
    27 => SessionEnded { client, space },
    28 => NoSession { client, space },
    29 => SeqTooLow { seq },
    30 => WindowFull { seq },
    31 => ChunkNotYours { why },
    32 => NoVolume { what },
    33 => VolumeExists { name },
    34 => NoSlot { slot },
    35 => NotLeader { group, leader },
    36 => NotServed { what },
    37 => Busy { retry_after_ms },
    38 => Unknown { why },
    39 => WrongVersion { theirs, ours },
    40 => TooLarge { what, size, limit },
    41 => WrongRecipient { why },
    42 => StalePlacement { pg, epoch },
    43 => MayNotAcknowledge { why },
    44 => NoChunk,
    45 => BadSum { what },
    46 => DiskFailed { why },
    47 => Leased { volume, dir },
    48 => NoLease { dir },
    80 => NotTrusted { why },
});
