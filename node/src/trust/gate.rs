//! The door in front of every call: who may ask it at all. What a user may do within a call is decided by the service,
//! on the credentials that [`admit`] leaves it.

use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::Either;
use tonic::Request;
use weft_core::access::door::{Need, need};
use weft_core::entry::Cred;
use weft_core::ids::{PrincipalId, TenantId};
use weft_core::refusal::Refusal;
use weft_proto::trust::{Name, Peer, Who};
use weft_proto::{pb, status};

use super::{Audit, Keeper};
use crate::site::map::MapCell;

/// Puts the door around a gRPC server.
#[derive(Clone)]
pub struct GateLayer {
    keeper: Option<Arc<Keeper>>,
    map: MapCell,
    audit: Audit,
}

impl GateLayer {
    /// Without a keeper the site is one in plain text, and everybody may ask everything.
    pub fn new(keeper: Option<Arc<Keeper>>, map: MapCell, audit: Audit) -> GateLayer {
        GateLayer { keeper, map, audit }
    }

    /// Whether the peer may make this call.
    fn decide(&self, who: &Who, path: &str) -> Result<(), Refusal> {
        let Some(keeper) = &self.keeper else { return Ok(()) };
        let needed = need(path);
        let no = |why: String| Err(Refusal::NotTrusted { why });
        let call = path.rsplit('.').next().unwrap_or(path);
        match who {
            _ if needed == Need::Nothing => Ok(()),
            Who::Plain => no("this site takes no plain text".into()),
            Who::Nobody(why) => Err((&**why).into()),
            Who::Known(name) => match &**name {
                Name::Node(node) => {
                    let map = self.map.get();
                    let known = map.nodes.iter().find(|known| known.id == node.replica.node);
                    match known {
                        _ if map.version == 0 => Ok(()),
                        Some(known) if known.incarnation == node.replica.incarnation => Ok(()),
                        Some(_) => no(format!("another life of node {} has taken its place", node.replica.node)),
                        None => no(format!("node {} is not, or no longer, of this site", node.replica.node)),
                    }
                }
                Name::User(user) if keeper.trust.is_revoked(user.principal.id) => {
                    no(format!("the credential of user {} was revoked", user.principal.name))
                }
                Name::User(user) => match needed {
                    Need::Nothing | Need::User => Ok(()),
                    Need::Admin if user.principal.is_admin() => Ok(()),
                    Need::Admin => no(format!("{call} needs the role admin, which {} has not", name.short())),
                    Need::Node => no(format!("{call} is between nodes, and {} is none", name.short())),
                },
            },
        }
    }
}

impl<S> tower::Layer<S> for GateLayer {
    type Service = Gate<S>;
    fn layer(&self, inner: S) -> Gate<S> {
        Gate { door: self.clone(), inner }
    }
}

/// Lets through what may pass.
#[derive(Clone)]
pub struct Gate<S> {
    door: GateLayer,
    inner: S,
}

impl<S, In, Out> tower::Service<http::Request<In>> for Gate<S>
where
    S: tower::Service<http::Request<In>, Response = http::Response<Out>>,
    Out: Default,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<S::Response, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<In>) -> Self::Future {
        let peer = request.extensions().get::<Peer>();
        let plain = Who::Plain;
        let who = peer.map_or(&plain, |peer| &peer.who);
        match self.door.decide(who, request.uri().path()) {
            Ok(()) => Either::Left(self.inner.call(request)),
            Err(refusal) => {
                let from = peer.and_then(|peer| peer.from);
                self.door.audit.denied(who, from, request.uri().path(), &refusal);
                Either::Right(ready(Ok(status::to_status(&refusal).into_http())))
            }
        }
    }
}

/// Who sent a request.
pub fn who<T>(request: &Request<T>) -> Who {
    request.extensions().get::<Peer>().map(|peer| peer.who.clone()).unwrap_or_default()
}

/// Makes the credentials in a user's envelope those that the user's certificate lets it have. A node's own, and those in
/// plain text, stay as they are.
///
/// # Errors
/// [`Refusal::Denied`]: the user may not speak for that uid.
pub fn admit(who: &Who, envelope: &mut Option<pb::Envelope>) -> Result<(), Refusal> {
    let (Some(user), Some(envelope)) = (who.user(), envelope) else { return Ok(()) };
    let said = Cred {
        uid: envelope.uid,
        gid: envelope.gid,
        gids: std::mem::take(&mut envelope.gids),
        pid: envelope.pid,
        // Bits to leave out of what is made: nothing that depends on who asks.
        umask: 0,
        principal: PrincipalId(envelope.principal),
        tenant: TenantId(envelope.tenant),
    };
    let cred = user.principal.speak(&said)?;
    (envelope.uid, envelope.gid, envelope.gids) = (cred.uid, cred.gid, cred.gids);
    (envelope.principal, envelope.tenant) = (cred.principal.0, cred.tenant.0);
    Ok(())
}
