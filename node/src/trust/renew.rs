//! A node's certificate is replaced long before it expires, and soon after a new authority signs; connections that stand
//! go on, later ones use the new one. The key is made anew each time and never leaves the node.

use std::time::Duration;

use tokio::time::Instant;
use tonic::Request;
use weft_core::refusal::Refusal;
use weft_proto::convert::Envelope;
use weft_proto::pb;
use weft_proto::pb::site_server::Site;
use weft_proto::status;
use weft_proto::trust::new_key;

use super::authority::NODE_S;
use crate::site::service::SiteService;

/// After a failure the next try waits so long.
const PAUSE: Duration = Duration::from_secs(30);
const WITHIN: Duration = Duration::from_secs(5);

/// Renews the certificate if it is time. `last` is when that was tried last.
pub(crate) async fn look(service: &SiteService, last: &mut Option<Instant>) {
    let Some(keeper) = &service.keeper else { return };
    let now = service.lead.desk.clock.now().secs;
    if !keeper.is_old(now, NODE_S / 3) || last.is_some_and(|last| last.elapsed() < PAUSE) {
        return;
    }
    *last = Some(Instant::now());
    match tokio::time::timeout(WITHIN, renew(service)).await {
        Ok(Ok(until)) => {
            *last = None;
            tracing::info!(until, "this node has a new certificate");
        }
        Ok(Err(refusal)) => tracing::warn!(%refusal, "renew this node's certificate"),
        Err(_) => tracing::warn!("renew this node's certificate: no answer in time"),
    }
}

async fn renew(service: &SiteService) -> Result<i64, Refusal> {
    let Some(keeper) = &service.keeper else { return Ok(0) };
    let failed = |error: &dyn std::error::Error| Refusal::Unknown { why: error.to_string() };
    let key = new_key().map_err(|error| failed(&error))?;
    let identity = &service.standing.identity;
    let request = pb::RenewRequest {
        envelope: Some(Envelope { deadline_ms: WITHIN.as_millis() as u32, ..Envelope::default() }.to_wire()),
        node: identity.node.0,
        incarnation: identity.incarnation.0,
        public_key: key.public.into(),
    };
    // The node asks itself, as with a heartbeat: its own service finds the leader.
    let reply = service.renew(Request::new(request)).await.map_err(|status| status::from_status(&status))?;
    let none = || Refusal::Unknown { why: "the answer holds no certificate".into() };
    let certificate = reply.into_inner().certificate.ok_or_else(none)?;
    keeper.renew(certificate.own.to_vec(), key.private, certificate.until).await.map_err(|error| failed(&error))?;
    Ok(certificate.until)
}
