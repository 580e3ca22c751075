//! How a data folder comes into a site: as the first node of a new one, or by asking a site in.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tonic::Request;
use weft_core::broken::{self, Variant};
use weft_core::codec;
use weft_core::ids::{Incarnation, NodeId, SiteId};
use weft_core::limits::MAX_REPLICATION;
use weft_core::refusal::Refusal;
use weft_proto::convert::Envelope;
use weft_proto::link::Dial;
use weft_proto::trust::{Credential, SecureDial, Trust, new_key};
use weft_proto::{link, pb, status};

use super::route::client;
use crate::identity::{Bootstrap, Folder, FolderError, Identity, MAX_SITE_NAME};
use crate::parts::{Dice, Parts};
use crate::settings::Settings;
use crate::trust::authority::SignError;
use crate::trust::found::{self, FoundError};
use crate::trust::token::JoinToken;
use crate::trust::{Keeper, keeper};

/// Meta groups for volumes at the most.
pub const MAX_GROUPS: u32 = 64;
/// How long a site is asked before joining is given up.
const JOIN: Duration = Duration::from_secs(30);
const ATTEMPT: Duration = Duration::from_secs(8);

/// Why a folder did not come into a site.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The folder can't be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// What was asked for makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// No certificates can be made.
    #[error(transparent)]
    Found(#[from] FoundError),
    /// The site did not take the node in.
    #[error("join the site at {peer}: {refusal}")]
    Refused {
        /// Who was asked.
        peer: String,
        /// What it said, or what stood in the way.
        refusal: Refusal,
    },
}

/// Whether the data folder belongs to a site.
///
/// # Errors
/// The folder can't be used.
pub async fn is_member(_: &Settings, parts: &Parts) -> Result<bool, SetupError> {
    Ok(Folder(&*parts.disk).identity().await?.is_some())
}

/// Makes a folder the first node of a new site in plain text, for one machine alone. Nothing is sent; the site begins when the node is first started.
///
/// # Errors
/// The folder is not fresh, a name or number makes no sense, the disk failed.
pub async fn init(
    settings: &Settings,
    name: &str,
    groups: u32,
    replication: u8,
    parts: &Parts,
) -> Result<Identity, SetupError> {
    let identity = prepare(settings, name, groups, replication, parts).await?;
    Folder(&*parts.disk).set_identity(&identity).await?;
    Ok(identity)
}

/// All but the last step.
async fn prepare(
    settings: &Settings,
    name: &str,
    groups: u32,
    replication: u8,
    parts: &Parts,
) -> Result<Identity, SetupError> {
    if name.is_empty() || name.len() > MAX_SITE_NAME || name.contains(char::is_control) {
        return Err(SetupError::Invalid(format!("a site's name has 1 to {MAX_SITE_NAME} bytes that print")));
    }
    if !(1..=MAX_GROUPS).contains(&groups) {
        return Err(SetupError::Invalid(format!("{groups} meta groups: at least 1, at most {MAX_GROUPS}")));
    }
    if !(1..=MAX_REPLICATION).contains(&replication) {
        return Err(SetupError::Invalid(format!("{replication} copies: at least 1, at most {MAX_REPLICATION}")));
    }
    if !settings.meta {
        return Err(SetupError::Invalid("the first node of a site needs the role meta".into()));
    }
    let folder = Folder(&*parts.disk);
    folder.must_be_fresh().await?;
    let identity = Identity {
        site: SiteId(site_id(&*parts.dice)),
        site_name: name.to_string(),
        node: NodeId(1),
        incarnation: Incarnation(new_life(&settings.advertise, parts)),
    };
    folder.set_bootstrap(Some(Bootstrap { groups, replication })).await?;
    Ok(identity)
}

/// The same, with an authority: everything between processes of this site is mutual TLS from the first moment on. Returns
/// the credential of its administrator too, which is kept nowhere else.
///
/// # Errors
/// As [`init`].
pub async fn found(
    settings: &Settings,
    name: &str,
    groups: u32,
    replication: u8,
    parts: &Parts,
) -> Result<(Identity, Credential), SetupError> {
    let identity = prepare(settings, name, groups, replication, parts).await?;
    let admin = found::found(&identity, parts).await?;
    Folder(&*parts.disk).set_identity(&identity).await?;
    Ok((identity, admin))
}

/// Tells a folder's life from every other, so that one that was lost is missed.
fn new_life(addr: &str, parts: &Parts) -> u64 {
    match broken::is(Variant::WipedVotes) {
        false => parts.dice.roll(),
        true => u64::from(crc32fast::hash(addr.as_bytes())),
    }
}

fn site_id(dice: &dyn Dice) -> u32 {
    loop {
        let id = (dice.roll() & 0xff_ffff) as u32;
        if id != 0 {
            return id;
        }
    }
}

/// Asks the site of a running node in, and makes the folder its new node. For sites in plain text.
///
/// # Errors
/// The folder is not fresh, the site does not answer or refuses, the disk failed.
pub async fn join(settings: &Settings, peer: &str, parts: &Parts) -> Result<Identity, SetupError> {
    join_with(settings, peer, None, parts).await
}

/// The same, with the token that a site with an authority wants.
///
/// # Errors
/// As [`join`]; who answers is not of the site that the token names.
pub async fn join_with(
    settings: &Settings,
    peer: &str,
    token: Option<&JoinToken>,
    parts: &Parts,
) -> Result<Identity, SetupError> {
    let addr = settings.advertised(&settings.listen);
    if addr.ends_with(":0") {
        return Err(SetupError::Invalid(format!("others can't reach {addr}: set a port in listen or advertise")));
    }
    let folder = Folder(&*parts.disk);
    folder.must_be_fresh().await?;
    let incarnation = folder.joining(new_life(&addr, parts)).await?;
    let refused = |refusal| SetupError::Refused { peer: peer.to_string(), refusal };
    let key = new_key().map_err(|error| FoundError::Sign(SignError::of(&error)))?;
    let dial: Arc<dyn Dial> = match token {
        Some(token) => {
            let clock = parts.clock.clone();
            let now = Arc::new(move || clock.now().secs.max(0).unsigned_abs());
            let trust = Trust::joining(token.authority, now)
                .map_err(|why| SetupError::Invalid(format!("prepare to join: {why}")))?;
            let dial = SecureDial::new(parts.dial.clone(), trust);
            // What is wrong with the one that answers is lost in what gRPC says of it.
            match tokio::time::timeout(ATTEMPT, dial.dial(peer)).await {
                Err(_) => return Err(refused(Refusal::Unknown { why: "no answer in time".into() })),
                Ok(Err(error)) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                    return Err(refused(Refusal::NotTrusted { why: error.to_string() }));
                }
                // gRPC tries again.
                Ok(_) => {}
            }
            Arc::new(dial)
        }
        None => parts.dial.clone(),
    };
    let channel = link::channel(dial, peer).map_err(|error| SetupError::Invalid(format!("address {peer}: {error}")))?;
    let envelope = Envelope { deadline_ms: ATTEMPT.as_millis() as u32, ..Envelope::default() }.to_wire();
    let question = pb::JoinRequest {
        envelope: Some(envelope.clone()),
        incarnation: incarnation.0,
        addr,
        meta: settings.meta,
        chunk: settings.chunk,
        token: token.map_or(0, |token| token.id),
        token_secret: token.map(|token| token.secret.to_vec().into()).unwrap_or_default(),
        public_key: key.public.into(),
    };
    let end = Instant::now() + JOIN;
    let reply = loop {
        // Asking again under the same incarnation gives the same node.
        let answer = tokio::time::timeout(ATTEMPT, client(channel.clone()).join(Request::new(question.clone()))).await;
        let refusal = match answer {
            Ok(Ok(reply)) => break reply.into_inner(),
            Ok(Err(status)) => status::from_status(&status),
            Err(_) => Refusal::Unknown { why: "no answer in time".into() },
        };
        let passing = matches!(refusal, Refusal::Busy { .. } | Refusal::Unknown { .. } | Refusal::NotLeader { .. });
        if !passing || Instant::now() + ATTEMPT / 4 >= end {
            return Err(refused(refusal));
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    };
    let identity =
        Identity { site: SiteId(reply.site), site_name: reply.site_name, node: NodeId(reply.node), incarnation };
    if let Some(certificate) = reply.certificate {
        let ders = certificate.authorities.iter().map(|der| der.to_vec());
        let credential = Credential::of(certificate.own.to_vec(), key.private, ders, certificate.until);
        keeper::write(&*parts.disk, &credential).await?;
    } else if token.is_some() {
        return Err(refused(Refusal::Unknown { why: "the answer holds no certificate".into() }));
    }
    // Where else to ask, should this peer be gone at the first start. Without it the configured peers must do.
    let question = pb::MapRequest { envelope: Some(envelope), have_version: 0 };
    let channel = match Keeper::open(parts.disk.clone(), parts.clock.clone()).await {
        Ok(None) => channel,
        Ok(Some(keeper)) => link::channel(Arc::new(SecureDial::new(parts.dial.clone(), keeper.trust.clone())), peer)
            .map_err(|error| SetupError::Invalid(format!("address {peer}: {error}")))?,
        Err(error) => return Err(SetupError::Invalid(error.to_string())),
    };
    match tokio::time::timeout(ATTEMPT, client(channel).map(Request::new(question))).await {
        Ok(Ok(reply)) if codec::decode_sitemap(&reply.get_ref().map).is_ok() => {
            folder.set_last_map(&reply.get_ref().map).await?;
        }
        Ok(Ok(_)) => tracing::warn!(peer, "the site map from the peer is not readable"),
        Ok(Err(status)) => tracing::warn!(peer, %status, "ask for the site map"),
        Err(_) => tracing::warn!(peer, "ask for the site map: no answer in time"),
    }
    folder.set_identity(&identity).await?;
    Ok(identity)
}
