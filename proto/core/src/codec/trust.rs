//! What the system group keeps of trust.

use super::wire::{code_enum, code_new, code_struct};
use crate::access::principal::{IdRanges, Principal};
use crate::site::trust::{
    Authority, ChunkKey, Secret, Token, TrustCommand, TrustNews, TrustOutcome, TrustRecord, User,
};

code_new!(Secret, IdRanges);
code_struct!(Principal { id, name, tenant, groups, roles, uids, gids });
code_struct!(Authority { number, certificate, cross, key });
code_struct!(ChunkKey { version, secret, made });
code_struct!(TrustRecord { version, authorities, revoked, keys, next_user });
code_struct!(TrustNews { version, authorities, crosses, revoked, keys });
code_struct!(User { principal, until, revoked });
code_struct!(Token { id, hash, until, used });
code_enum!(TrustCommand {
    1 => Found { authority, key, admin, until },
    2 => AddUser { principal, until },
    3 => RevokeUser { name },
    4 => AddToken(token),
    5 => UseToken { id, hash, incarnation },
    6 => AddKey { secret },
    7 => AddAuthority(authority),
    8 => DropAuthorities,
    9 => RenewUser { name, until },
});
code_enum!(TrustOutcome { 1 => Done, 2 => User(user) });
