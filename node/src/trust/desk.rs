//! What the leader of the system group does about trust when it is asked: users, tokens, keys, certificates.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use weft_core::access::principal::Principal;
use weft_core::ids::{Incarnation, NodeId, PrincipalId, ReplicaId, SiteId, TenantId};
use weft_core::refusal::Refusal;
use weft_core::site::SiteCommand;
use weft_core::site::SiteOutcome;
use weft_core::site::trust::{self, Secret, Token, TrustCommand, TrustOutcome, TrustRecord, User};
use weft_core::view::{View, ViewError};
use weft_proto::convert::Envelope;
use weft_proto::pb;
use weft_proto::trust::{Fingerprint, Name, NodeName, UserName};

use super::authority::{self, NODE_S, USER_S};
use super::token::{self, JoinToken};
use super::{Audit, Keeper};
use crate::meta::Group;
use crate::parts::{Clock, Dice};
use crate::site::lead::Lead;

/// Seconds for which a join token is good at the most.
const LONGEST_TOKEN_S: u32 = 30 * 86_400;
/// Days for which a credential is good at the most.
const LONGEST_DAYS: u32 = 3650;
/// How long a majority is waited for.
const LINEAR: Duration = Duration::from_secs(3);
const DAY_S: i64 = 86_400;

/// What it takes to answer.
#[derive(Clone)]
pub struct Desk {
    /// For how long things are good.
    pub clock: Arc<dyn Clock>,
    /// Secrets.
    pub dice: Arc<dyn Dice>,
    /// Takes note of what changed.
    pub audit: Audit,
    /// What this node holds; `None` in a site in plain text.
    pub keeper: Option<Arc<Keeper>>,
}

impl Desk {
    fn now(&self) -> i64 {
        self.clock.now().secs
    }

    fn secret(&self) -> Secret {
        let mut key = Vec::with_capacity(32);
        (0..4).for_each(|_| key.extend_from_slice(&self.dice.roll().to_be_bytes()));
        Secret(key.into())
    }
}

/// Users, tokens and keys.
pub(crate) fn trust<'a>(
    lead: &'a Lead,
    group: &'a Group,
    envelope: Envelope,
    request: pb::TrustRequest,
) -> BoxFuture<'a, Result<pb::TrustReply, Refusal>> {
    Box::pin(async move {
        use pb::trust_request::Ask;
        let by = envelope.cred.principal;
        let ask = request.ask.ok_or_else(|| invalid("nothing is asked"))?;
        let desk = &lead.desk;
        let note = |event, what: String| desk.audit.changed(event, by, what);
        match ask {
            Ask::AddUser(add) => {
                let reply = add_user(lead, group, add).await?;
                let whom = reply.users.first().and_then(|user| user.principal.as_ref());
                note("user added", whom.map(|whom| format!("user {} ({})", whom.name, whom.id)).unwrap_or_default());
                Ok(reply)
            }
            Ask::RenewUser(add) => {
                let name = add.principal.unwrap_or_default().name;
                let until = until(desk.now(), add.days);
                check_key(&add.public_key)?;
                let command = TrustCommand::RenewUser { name, until };
                let reply = certify_user(lead, group, command, &add.public_key, until).await?;
                let whom = reply.users.first().and_then(|user| user.principal.as_ref());
                note("user renewed", whom.map(|whom| format!("user {} ({})", whom.name, whom.id)).unwrap_or_default());
                Ok(reply)
            }
            Ask::RevokeUser(name) => {
                let TrustOutcome::User(user) = change(lead, group, TrustCommand::RevokeUser { name }).await? else {
                    return Err(unexpected());
                };
                note("user revoked", format!("user {} ({})", user.principal.name, user.principal.id));
                Ok(pb::TrustReply { users: vec![user_to_wire(&user)], ..pb::TrustReply::default() })
            }
            Ask::ListUsers(_) => {
                let view = linear(group).await?;
                let users = trust::users(&*view).map_err(failed)?;
                Ok(pb::TrustReply { users: users.iter().map(user_to_wire).collect(), ..pb::TrustReply::default() })
            }
            Ask::AddTokenS(seconds) => {
                let token = add_token(lead, group, seconds).await?;
                note("join token made", format!("{token:?}"));
                Ok(pb::TrustReply { token: token.to_string(), ..pb::TrustReply::default() })
            }
            Ask::RotateKeys(_) => {
                change(lead, group, TrustCommand::AddKey { secret: desk.secret() }).await?;
                note("key of capabilities made", String::new());
                Ok(pb::TrustReply::default())
            }
            Ask::RotateAuthority(_) => {
                let record = record(group).await?;
                let site = lead.site();
                let made = authority::make(site, desk.now(), record.authorities.last()).map_err(unsigned)?;
                note("authority made", format!("authority {}", made.number));
                change(lead, group, TrustCommand::AddAuthority(made)).await?;
                Ok(pb::TrustReply::default())
            }
            Ask::DropAuthorities(_) => {
                change(lead, group, TrustCommand::DropAuthorities).await?;
                note("former authorities dropped", String::new());
                Ok(pb::TrustReply::default())
            }
        }
    })
}

/// A node's new certificate.
pub(crate) fn renew<'a>(
    lead: &'a Lead,
    group: &'a Group,
    _: Envelope,
    request: pb::RenewRequest,
) -> BoxFuture<'a, Result<pb::RenewReply, Refusal>> {
    Box::pin(async move {
        let replica = ReplicaId { node: NodeId(request.node), incarnation: Incarnation(request.incarnation) };
        lead.known(replica)?;
        let certificate = certify(lead, &record(group).await?, replica, lead.site(), &request.public_key)?;
        Ok(pb::RenewReply { certificate: Some(certificate) })
    })
}

/// A joining node's token, where the site has an authority. Whether there is one.
pub(crate) async fn check_token(lead: &Lead, group: &Group, request: &pb::JoinRequest) -> Result<bool, Refusal> {
    let view = linear(group).await?;
    if trust::record(&*view).map_err(failed)?.is_none() {
        return Ok(false);
    }
    if request.token_secret.is_empty() {
        let why = "this site lets nodes in with a token only: `weft cluster token` prints one for `weft cluster join --token`";
        return Err(Refusal::NotTrusted { why: why.into() });
    }
    let (id, hash) = (request.token, token::hash(&request.token_secret));
    change(lead, group, TrustCommand::UseToken { id, hash, incarnation: Incarnation(request.incarnation) }).await?;
    Ok(true)
}

/// The certificate of a node that has joined.
pub(crate) async fn certify_joined(
    lead: &Lead,
    group: &Group,
    node: NodeId,
    site: SiteId,
    request: &pb::JoinRequest,
) -> Result<pb::Certificate, Refusal> {
    let replica = ReplicaId { node, incarnation: Incarnation(request.incarnation) };
    let certificate = certify(lead, &record(group).await?, replica, site, &request.public_key)?;
    lead.desk.audit.changed("node joined", PrincipalId(0), format!("node {node} at {}", request.addr));
    Ok(certificate)
}

fn certify(
    lead: &Lead,
    record: &TrustRecord,
    replica: ReplicaId,
    site: SiteId,
    public_key: &[u8],
) -> Result<pb::Certificate, Refusal> {
    let until = lead.desk.now() + NODE_S;
    sign(lead, record, &Name::Node(NodeName { site, replica }), public_key, until)
}

async fn add_user(lead: &Lead, group: &Group, add: pb::AddUser) -> Result<pb::TrustReply, Refusal> {
    let principal = parse_principal(add.principal.unwrap_or_default())?;
    let until = until(lead.desk.now(), add.days);
    check_key(&add.public_key)?;
    certify_user(lead, group, TrustCommand::AddUser { principal, until }, &add.public_key, until).await
}

fn until(now: i64, days: u32) -> i64 {
    match days {
        0 => now + USER_S,
        days => now + i64::from(days.min(LONGEST_DAYS)) * DAY_S,
    }
}

/// Before anything is remembered: a key that is none must not leave a user behind.
fn check_key(public_key: &[u8]) -> Result<(), Refusal> {
    if public_key.len() == 32 { Ok(()) } else { Err(invalid("a public key has 32 bytes")) }
}

async fn certify_user(
    lead: &Lead,
    group: &Group,
    command: TrustCommand,
    public_key: &[u8],
    until: i64,
) -> Result<pb::TrustReply, Refusal> {
    let TrustOutcome::User(user) = change(lead, group, command).await? else { return Err(unexpected()) };
    let name = Name::User(UserName { site: lead.site(), principal: user.principal.clone() });
    let certificate = sign(lead, &record(group).await?, &name, public_key, until)?;
    Ok(pb::TrustReply { certificate: Some(certificate), users: vec![user_to_wire(&user)], ..pb::TrustReply::default() })
}

async fn add_token(lead: &Lead, group: &Group, seconds: u32) -> Result<JoinToken, Refusal> {
    if !(1..=LONGEST_TOKEN_S).contains(&seconds) {
        return Err(invalid("a join token is good for 1 second to 30 days"));
    }
    let record = record(group).await?;
    let authority = record.authorities.last().ok_or_else(unexpected)?;
    let token = JoinToken::roll(&*lead.desk.dice, Fingerprint::of(&authority.certificate));
    let until = lead.desk.now() + i64::from(seconds);
    let hash = token::hash(&token.secret[..]);
    change(lead, group, TrustCommand::AddToken(Token { id: token.id, hash, until, used: None })).await?;
    Ok(token)
}

fn sign(
    lead: &Lead,
    record: &TrustRecord,
    name: &Name,
    public_key: &[u8],
    until: i64,
) -> Result<pb::Certificate, Refusal> {
    let authority = record.authorities.last().ok_or_else(unexpected)?;
    let own = authority::sign(authority, name, public_key, lead.desk.now(), until).map_err(unsigned)?;
    let news = record.news();
    Ok(pb::Certificate {
        own: own.into(),
        authorities: news.authorities.into_iter().chain(news.crosses).collect::<Vec<Bytes>>(),
        until,
    })
}

/// The records as they are, if a majority answers in time.
async fn linear(group: &Group) -> Result<Arc<dyn View + Send + Sync>, Refusal> {
    let late = || Err(Refusal::Unknown { why: "no majority answered in time".into() });
    tokio::time::timeout(LINEAR, group.linear_view()).await.unwrap_or_else(|_| late())
}

async fn record(group: &Group) -> Result<TrustRecord, Refusal> {
    let view = linear(group).await?;
    let none = || Refusal::NotServed { what: "credentials: this site is one in plain text".into() };
    trust::record(&*view).map_err(failed)?.ok_or_else(none)
}

async fn change(lead: &Lead, group: &Group, command: TrustCommand) -> Result<TrustOutcome, Refusal> {
    match lead.propose(group, SiteCommand::Trust(command)).await? {
        SiteOutcome::Trust(outcome) => Ok(outcome),
        _ => Err(unexpected()),
    }
}

fn parse_principal(wire: pb::Principal) -> Result<Principal, Refusal> {
    let principal = Principal {
        id: PrincipalId(wire.id),
        name: wire.name,
        tenant: TenantId(wire.tenant),
        groups: wire.groups,
        roles: wire.roles,
        uids: wire.uids.parse().map_err(|why: String| invalid(&why))?,
        gids: wire.gids.parse().map_err(|why: String| invalid(&why))?,
    };
    principal.check()?;
    Ok(principal)
}

/// A principal as it is sent.
pub(crate) fn principal_to_wire(principal: &Principal) -> pb::Principal {
    pb::Principal {
        id: principal.id.0,
        name: principal.name.clone(),
        tenant: principal.tenant.0,
        groups: principal.groups.clone(),
        roles: principal.roles.clone(),
        uids: principal.uids.to_string(),
        gids: principal.gids.to_string(),
    }
}

fn user_to_wire(user: &User) -> pb::User {
    pb::User { principal: Some(principal_to_wire(&user.principal)), until: user.until, revoked: user.revoked }
}

fn invalid(why: &str) -> Refusal {
    Refusal::Invalid { why: why.into() }
}

fn unexpected() -> Refusal {
    Refusal::Unknown { why: "the system group answered something else".into() }
}

fn failed(error: ViewError) -> Refusal {
    Refusal::DiskFailed { why: error.to_string() }
}

fn unsigned(error: authority::SignError) -> Refusal {
    Refusal::Unknown { why: error.to_string() }
}
