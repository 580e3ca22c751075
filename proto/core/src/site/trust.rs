//! What the system group keeps of trust: the site's authorities, its users, join tokens, and the keys under which
//! capabilities are made.
//!
//! What always holds: there is one trust record from the first entry on, or none for ever (a site in plain text). A token
//! lets one data folder in. A name belongs to one user at a time, and a number to one user for ever.

use std::fmt;

use bytes::Bytes;

use super::apply::invalid;
use super::records::{get, table};
use crate::access::principal::Principal;
use crate::codec;
use crate::ids::{Incarnation, PrincipalId};
use crate::keys;
use crate::namespace::fail::Fail;
use crate::refusal::Refusal;
use crate::time::Timestamp;
use crate::view::{Overlay, View, ViewError};

/// Join tokens that are good at a time.
pub const MAX_TOKENS: usize = 256;
/// Users that are not revoked.
pub const MAX_USERS: usize = 10_000;
/// Revoked users that are remembered; the oldest are forgotten, whose certificates have expired long since.
pub const MAX_REVOKED: usize = 10_000;
/// Authorities that are believed at a time.
pub const MAX_AUTHORITIES: usize = 4;
/// Keys of capabilities that are good at a time.
pub const LIVE_KEYS: usize = 2;

/// Bytes that nobody is shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(pub Bytes);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// One authority: its certificate, and the key with which it signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// From 1; tells the authorities of a site apart.
    pub number: u32,
    /// DER, signed by itself.
    pub certificate: Bytes,
    /// The same key, certified by the authority before it: so those who believe only that one believe this one too.
    /// Empty for the first.
    pub cross: Bytes,
    /// PKCS#8.
    pub key: Secret,
}

/// A key of capabilities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkKey {
    /// Rises with every key.
    pub version: u32,
    /// 32 random bytes.
    pub secret: Secret,
    /// When it was made.
    pub made: Timestamp,
}

/// The trust record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustRecord {
    /// Rises with every change.
    pub version: u64,
    /// The last one signs; all are believed.
    pub authorities: Vec<Authority>,
    /// Users that are refused although their certificates may still run.
    pub revoked: Vec<PrincipalId>,
    /// The last one makes capabilities; all are believed.
    pub keys: Vec<ChunkKey>,
    /// The number of the next user.
    pub next_user: u64,
}

/// What every node knows of trust: the record without what only signs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustNews {
    /// As in [`TrustRecord`]; 0: this site has none.
    pub version: u64,
    /// Certificates of the authorities, DER.
    pub authorities: Vec<Bytes>,
    /// What leads from a former authority to a later one, DER.
    pub crosses: Vec<Bytes>,
    /// Users that are refused.
    pub revoked: Vec<PrincipalId>,
    /// Keys of capabilities.
    pub keys: Vec<ChunkKey>,
}

/// A user, as the site remembers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Who.
    pub principal: Principal,
    /// Until when the credential is good, in seconds since 1970.
    pub until: i64,
    /// Whether it was revoked.
    pub revoked: bool,
}

/// A join token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Which.
    pub id: u64,
    /// SHA-256 of its secret.
    pub hash: Bytes,
    /// Until when it is good, in seconds since 1970.
    pub until: i64,
    /// The data folder that used it.
    pub used: Option<Incarnation>,
}

/// A change of trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrustCommand {
    /// The first: the site's authority, its first key of capabilities, and its administrator, who is user 1. Repeating it
    /// changes nothing.
    Found {
        /// The authority.
        authority: Authority,
        /// The first key of capabilities.
        key: Secret,
        /// The administrator.
        admin: Principal,
        /// Until when its credential is good.
        until: i64,
    },
    /// A new user; its number is given here. `User`.
    AddUser {
        /// Who; the number does not matter.
        principal: Principal,
        /// Until when the credential is good.
        until: i64,
    },
    /// The same user gets another credential. `User`.
    RenewUser {
        /// Who.
        name: String,
        /// Until when it is good.
        until: i64,
    },
    /// A user is refused from now on. `User`.
    RevokeUser {
        /// Who.
        name: String,
    },
    /// Lets somebody join. `Done`.
    AddToken(Token),
    /// A data folder joins with a token. The same folder may ask again. `Done`.
    UseToken {
        /// Which.
        id: u64,
        /// SHA-256 of the secret that was shown.
        hash: Bytes,
        /// The folder.
        incarnation: Incarnation,
    },
    /// A new key of capabilities; all but the last two are forgotten. `Done`.
    AddKey {
        /// 32 random bytes.
        secret: Secret,
    },
    /// A new authority, which signs from now on; the former ones are still believed. `Done`.
    AddAuthority(Authority),
    /// Only the newest authority is believed from now on. `Done`.
    DropAuthorities,
}

/// What came of a [`TrustCommand`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrustOutcome {
    /// Done.
    Done,
    /// The user as recorded.
    User(User),
}

/// The trust record, if the site has one.
///
/// # Errors
/// The store failed, or the record does not decode.
pub fn record(view: &dyn View) -> Result<Option<TrustRecord>, ViewError> {
    get(view, &keys::site_trust())
}

/// What every node is to know of trust.
///
/// # Errors
/// As [`record`].
pub fn news(view: &dyn View) -> Result<TrustNews, ViewError> {
    Ok(record(view)?.map(|record| record.news()).unwrap_or_default())
}

/// All users, by number; those revoked too.
///
/// # Errors
/// As [`record`].
pub fn users(view: &dyn View) -> Result<Vec<User>, ViewError> {
    table(view, &keys::site_user(PrincipalId(0)))
}

impl TrustRecord {
    /// Without what only signs.
    pub fn news(&self) -> TrustNews {
        TrustNews {
            version: self.version,
            authorities: self.authorities.iter().map(|authority| authority.certificate.clone()).collect(),
            // Also after the former one was dropped: so who still believes only that one is told so in words.
            crosses: self.authorities.iter().map(|each| each.cross.clone()).filter(|der| !der.is_empty()).collect(),
            revoked: self.revoked.clone(),
            keys: self.keys.clone(),
        }
    }
}

/// Applies one command.
pub(super) fn apply(out: &mut Overlay<'_>, now: Timestamp, command: &TrustCommand) -> Result<TrustOutcome, Fail> {
    let known = record(out)?;
    let mut record = match (known, command) {
        (known, TrustCommand::Found { authority, key, admin, until }) => {
            return found(out, now, known, authority, key, admin, *until);
        }
        (Some(record), _) => record,
        (None, _) => return Err(Refusal::NotServed { what: "credentials: this site has no authority".into() }.into()),
    };
    let before = record.clone();
    let outcome = match command {
        TrustCommand::Found { .. } => return Err(invalid("the site has an authority").into()),
        TrustCommand::AddUser { principal, until } => add_user(out, &mut record, principal, *until)?,
        TrustCommand::RenewUser { name, until } => renew_user(out, name, *until)?,
        TrustCommand::RevokeUser { name } => revoke_user(out, &mut record, name)?,
        TrustCommand::AddToken(token) => add_token(out, now, token)?,
        TrustCommand::UseToken { id, hash, incarnation } => use_token(out, now, *id, hash, *incarnation)?,
        TrustCommand::AddKey { secret } => {
            add_key(&mut record, secret, now)?;
            TrustOutcome::Done
        }
        TrustCommand::AddAuthority(authority) => {
            if !record.authorities.iter().any(|known| known.certificate == authority.certificate) {
                if record.authorities.len() >= MAX_AUTHORITIES {
                    return Err(invalid("too many authorities are believed: end an earlier rotation first").into());
                }
                record.authorities.push(authority.clone());
            }
            TrustOutcome::Done
        }
        TrustCommand::DropAuthorities => {
            record.authorities.drain(..record.authorities.len() - 1);
            TrustOutcome::Done
        }
    };
    if record != before {
        record.version += 1;
        out.put(keys::site_trust(), codec::encode(&record));
    }
    Ok(outcome)
}

fn found(
    out: &mut Overlay<'_>,
    now: Timestamp,
    known: Option<TrustRecord>,
    authority: &Authority,
    key: &Secret,
    admin: &Principal,
    until: i64,
) -> Result<TrustOutcome, Fail> {
    if let Some(known) = known {
        return match known.authorities.contains(authority) {
            true => Ok(TrustOutcome::Done),
            false => Err(invalid("the site has another authority").into()),
        };
    }
    let mut record = TrustRecord { authorities: vec![authority.clone()], next_user: 1, ..TrustRecord::default() };
    add_key(&mut record, key, now)?;
    add_user(out, &mut record, admin, until)?;
    record.version = 1;
    out.put(keys::site_trust(), codec::encode(&record));
    Ok(TrustOutcome::Done)
}

fn add_key(record: &mut TrustRecord, secret: &Secret, made: Timestamp) -> Result<(), Fail> {
    if secret.0.len() != 32 {
        return Err(invalid("a key of capabilities has 32 bytes").into());
    }
    let version = record.keys.last().map_or(1, |last| last.version + 1);
    record.keys.push(ChunkKey { version, secret: secret.clone(), made });
    let old = record.keys.len().saturating_sub(LIVE_KEYS);
    record.keys.drain(..old);
    Ok(())
}

fn add_user(
    out: &mut Overlay<'_>,
    record: &mut TrustRecord,
    principal: &Principal,
    until: i64,
) -> Result<TrustOutcome, Fail> {
    principal.check()?;
    let live: Vec<User> = users(out)?.into_iter().filter(|user| !user.revoked).collect();
    if live.iter().any(|user| user.principal.name == principal.name) {
        return Err(
            invalid(&format!("there is a user {}: revoke it first, or choose another name", principal.name)).into()
        );
    }
    if live.len() >= MAX_USERS {
        return Err(Refusal::NoSpace { why: format!("{MAX_USERS} users are enough: revoke some") }.into());
    }
    let id = PrincipalId(record.next_user);
    record.next_user += 1;
    let user = User { principal: Principal { id, ..principal.clone() }, until, revoked: false };
    out.put(keys::site_user(id), codec::encode(&user));
    Ok(TrustOutcome::User(user))
}

fn renew_user(out: &mut Overlay<'_>, name: &str, until: i64) -> Result<TrustOutcome, Fail> {
    let live = users(out)?.into_iter().find(|user| user.principal.name == name && !user.revoked);
    let Some(user) = live else { return Err(invalid(&format!("there is no user {name}")).into()) };
    let user = User { until, ..user };
    out.put(keys::site_user(user.principal.id), codec::encode(&user));
    Ok(TrustOutcome::User(user))
}

/// Asked again, it says the same.
fn revoke_user(out: &mut Overlay<'_>, record: &mut TrustRecord, name: &str) -> Result<TrustOutcome, Fail> {
    let named: Vec<User> = users(out)?.into_iter().filter(|user| user.principal.name == name).collect();
    let live = named.iter().find(|user| !user.revoked);
    let Some(user) = live.or(named.last()) else { return Err(invalid(&format!("there is no user {name}")).into()) };
    let user = User { revoked: true, ..user.clone() };
    if !record.revoked.contains(&user.principal.id) {
        record.revoked.push(user.principal.id);
        let old = record.revoked.len().saturating_sub(MAX_REVOKED);
        record.revoked.drain(..old);
        out.put(keys::site_user(user.principal.id), codec::encode(&user));
    }
    Ok(TrustOutcome::User(user))
}

fn tokens(view: &dyn View) -> Result<Vec<Token>, ViewError> {
    table(view, &keys::site_token(0))
}

fn add_token(out: &mut Overlay<'_>, now: Timestamp, token: &Token) -> Result<TrustOutcome, Fail> {
    let (good, over): (Vec<Token>, Vec<Token>) = tokens(out)?.into_iter().partition(|token| token.until > now.secs);
    over.iter().for_each(|token| out.remove(keys::site_token(token.id)));
    if good.iter().any(|known| known.id == token.id) {
        return Ok(TrustOutcome::Done);
    }
    if good.len() >= MAX_TOKENS {
        return Err(Refusal::NoSpace {
            why: format!("{MAX_TOKENS} join tokens are good at a time: wait for some to expire"),
        }
        .into());
    }
    out.put(keys::site_token(token.id), codec::encode(token));
    Ok(TrustOutcome::Done)
}

fn use_token(
    out: &mut Overlay<'_>,
    now: Timestamp,
    id: u64,
    hash: &Bytes,
    incarnation: Incarnation,
) -> Result<TrustOutcome, Fail> {
    let no = |why: &str| Err(Refusal::NotTrusted { why: why.into() }.into());
    let token: Option<Token> = get(out, &keys::site_token(id))?;
    // A wrong secret learns nothing about the token.
    let Some(token) = token.filter(|token| token.hash == *hash) else {
        return no("the join token is not of this site");
    };
    if token.until <= now.secs {
        return no("the join token has expired: ask for another one (weft cluster token)");
    }
    match token.used {
        Some(used) if used == incarnation => Ok(TrustOutcome::Done),
        Some(_) => no("the join token was used already: ask for another one (weft cluster token)"),
        None => {
            out.put(keys::site_token(id), codec::encode(&Token { used: Some(incarnation), ..token }));
            Ok(TrustOutcome::Done)
        }
    }
}

#[cfg(test)]
mod tests;
