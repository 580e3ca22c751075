//! Who this client is, and what an administrator asks about trust: users, join tokens, keys.

use std::future::Future;

use tonic::transport::Channel;
use tonic::{Response, Status};
use weft_core::access::principal::{IdRanges, Principal};
use weft_core::entry::Cred;
use weft_core::ids::{PrincipalId, TenantId};
use weft_core::refusal::Refusal;
use weft_proto::convert::Envelope;
use weft_proto::link::{self, MESSAGE_LIMIT};
use weft_proto::pb;
use weft_proto::pb::site_client::SiteClient;
use weft_proto::pb::trust_request::Ask;
use weft_proto::status::from_status;
use weft_proto::trust::{Credential, NewKey, new_key};

use crate::client::{Client, Shared};
use crate::error::{Error, Result};
use crate::servers::Call;

/// A user to make.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewUser {
    /// What people call it.
    pub name: String,
    /// Groups of people.
    pub groups: Vec<String>,
    /// Roles; `admin` may change the site.
    pub roles: Vec<String>,
    /// Whose volumes it sees; 0: those of all.
    pub tenant: u32,
    /// User ids it may speak for.
    pub uids: IdRanges,
    /// Group ids it may speak for.
    pub gids: IdRanges,
    /// Days for which the credential is good; 0: a year.
    pub days: u32,
}

/// A user of the site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Who.
    pub principal: Principal,
    /// Until when the credential is good, in seconds since 1970.
    pub until: i64,
    /// Whether it was revoked.
    pub revoked: bool,
}

/// Who a client is to the site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whoami {
    /// The site is one in plain text: nobody is asked.
    Plain,
    /// This user.
    User(Principal),
}

impl Client {
    /// Who this client is to the site.
    ///
    /// # Errors
    /// No node answered within the deadline.
    pub async fn whoami(&self) -> Result<Whoami> {
        let reply = self.shared.at_site(async |addr, call| {
            let request = pb::WhoamiRequest { envelope: envelope(&call) };
            self.shared.ask_site(addr, &call, |mut site| async move { site.whoami(request).await }).await
        });
        Ok(match reply.await?.principal {
            Some(principal) => Whoami::User(parse(principal)?),
            None => Whoami::Plain,
        })
    }

    /// Makes a user. Its private key is made here and is in the credential alone.
    ///
    /// # Errors
    /// There is a user of that name; this client is no administrator; the site is one in plain text.
    pub async fn add_user(&self, new: NewUser) -> Result<(User, Credential)> {
        let key = new_key().map_err(|error| Error::Local { what: "make a key", why: error.to_string() })?;
        let principal = pb::Principal {
            id: 0,
            name: new.name,
            tenant: new.tenant,
            groups: new.groups,
            roles: new.roles,
            uids: new.uids.to_string(),
            gids: new.gids.to_string(),
        };
        let add = pb::AddUser { principal: Some(principal), public_key: key.public.clone().into(), days: new.days };
        credential(self.ask_trust(Ask::AddUser(add)).await?, key)
    }

    /// Another credential for the same user, signed by the newest authority; those it has are good until they expire.
    ///
    /// # Errors
    /// There is no such user; this client is no administrator.
    pub async fn renew_user(&self, name: &str, days: u32) -> Result<(User, Credential)> {
        let key = new_key().map_err(|error| Error::Local { what: "make a key", why: error.to_string() })?;
        let principal = pb::Principal { name: name.to_string(), ..pb::Principal::default() };
        let add = pb::AddUser { principal: Some(principal), public_key: key.public.clone().into(), days };
        credential(self.ask_trust(Ask::RenewUser(add)).await?, key)
    }

    /// Refuses a user from now on, wherever its credential is.
    ///
    /// # Errors
    /// There is no such user; this client is no administrator.
    pub async fn revoke_user(&self, name: &str) -> Result<User> {
        let reply = self.ask_trust(Ask::RevokeUser(name.to_string())).await?;
        let user = reply.users.into_iter().next().ok_or_else(|| Error::unexpected("the end of a user"))?;
        parse_user(user)
    }

    /// All users, those revoked too.
    ///
    /// # Errors
    /// This client is no administrator.
    pub async fn users(&self) -> Result<Vec<User>> {
        self.ask_trust(Ask::ListUsers(true)).await?.users.into_iter().map(parse_user).collect()
    }

    /// A word with which one node may join, for so many seconds.
    ///
    /// # Errors
    /// This client is no administrator; the site is one in plain text.
    pub async fn join_token(&self, seconds: u32) -> Result<String> {
        Ok(self.ask_trust(Ask::AddTokenS(seconds)).await?.token)
    }

    /// Makes a new key of capabilities. Those made under the last one are good until they expire.
    ///
    /// # Errors
    /// This client is no administrator; the site is one in plain text.
    pub async fn rotate_keys(&self) -> Result<()> {
        self.ask_trust(Ask::RotateKeys(true)).await.map(drop)
    }

    /// Makes a new authority, which signs from now on. Nodes take new certificates by themselves; what the former one
    /// signed is good until [`Client::drop_authorities`].
    ///
    /// # Errors
    /// As [`Client::rotate_keys`]; too many rotations are under way.
    pub async fn rotate_authority(&self) -> Result<()> {
        self.ask_trust(Ask::RotateAuthority(true)).await.map(drop)
    }

    /// Only the newest authority is believed from now on: credentials that a former one signed are refused.
    ///
    /// # Errors
    /// As [`Client::rotate_keys`].
    pub async fn drop_authorities(&self) -> Result<()> {
        self.ask_trust(Ask::DropAuthorities(true)).await.map(drop)
    }

    async fn ask_trust(&self, ask: Ask) -> Result<pb::TrustReply> {
        self.shared
            .at_site(async |addr, call| {
                let request = pb::TrustRequest { envelope: envelope(&call), ask: Some(ask.clone()) };
                self.shared.ask_site(addr, &call, |mut site| async move { site.trust(request).await }).await
            })
            .await
    }
}

impl Shared {
    /// One question to the node of an address.
    async fn ask_site<T, F>(
        &self,
        addr: &str,
        call: &Call,
        ask: impl FnOnce(SiteClient<Channel>) -> F,
    ) -> Result<T, Refusal>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let channel = link::channel(self.parts.dial.clone(), addr)
            .map_err(|error| Refusal::Invalid { why: format!("address {addr}: {error}") })?;
        let site = SiteClient::new(channel).max_decoding_message_size(MESSAGE_LIMIT);
        match tokio::time::timeout(call.wait, ask(site)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(from_status(&status)),
            Err(_) => Err(Refusal::Unknown { why: format!("{addr} did not answer in time") }),
        }
    }
}

fn credential(reply: pb::TrustReply, key: NewKey) -> Result<(User, Credential)> {
    let (Some(certificate), Some(user)) = (reply.certificate, reply.users.into_iter().next()) else {
        return Err(Error::unexpected("a request for a user"));
    };
    let others = certificate.authorities.iter().map(|der| der.to_vec());
    let credential = Credential::of(certificate.own.to_vec(), key.private, others, certificate.until);
    Ok((parse_user(user)?, credential))
}

fn envelope(call: &Call) -> Option<pb::Envelope> {
    let deadline_ms = u32::try_from(call.wait.as_millis()).unwrap_or(u32::MAX);
    Some(Envelope { deadline_ms, cred: Cred::root(), ..Envelope::default() }.to_wire())
}

fn parse(wire: pb::Principal) -> Result<Principal> {
    let ids = |text: String| text.parse::<IdRanges>().map_err(|_| Error::unexpected("a question about users"));
    Ok(Principal {
        id: PrincipalId(wire.id),
        name: wire.name,
        tenant: TenantId(wire.tenant),
        groups: wire.groups,
        roles: wire.roles,
        uids: ids(wire.uids)?,
        gids: ids(wire.gids)?,
    })
}

fn parse_user(wire: pb::User) -> Result<User> {
    let principal = wire.principal.ok_or_else(|| Error::unexpected("a question about users"))?;
    Ok(User { principal: parse(principal)?, until: wire.until, revoked: wire.revoked })
}
