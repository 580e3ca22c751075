//! Who is at the other end of a connection: certificates, whom they name, and TLS 1.3 below gRPC.
//!
//! What always holds. A connection of a site with certificates is mutual TLS 1.3, or none. The side that dials believes
//! only a node of its own site, signed by an authority that it knows, before it sends a byte of a request. The side that
//! listens makes every peer prove that it has the key of what it shows; a peer that shows nothing, or what is not
//! believed, is told why by each answer and gets nothing else, and such connections are few and short.
//!
//! One file per idea: `names` whom a certificate names, `verify` what of it is believed, `keys` the state that both
//! sides use and that can be replaced while connections stand, `secure` the links, `credential` the file that a user has.

mod credential;
mod keys;
mod names;
mod secure;
mod verify;

pub use credential::{Credential, CredentialError};
pub use keys::{Held, NewKey, Now, Trust, new_key};
pub use names::{Name, NodeName, UserName};
pub use secure::{Doorman, Limits, SecureDial, secured};
pub use verify::{Distrust, Fingerprint, issued_by};

use std::net::SocketAddr;
use std::sync::Arc;

use weft_core::ids::NodeId;
use weft_core::refusal::Refusal;

/// Whom a dialled connection must reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// Any node of the site.
    AnyNode,
    /// This node of the site.
    Node(NodeId),
}

/// Who is at the other end of an accepted connection. Rides in the extensions of every request that comes over it.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// Who it proved to be.
    pub who: Who,
    /// Where it is.
    pub from: Option<SocketAddr>,
}

/// Who a peer proved to be.
#[derive(Clone, Debug, Default)]
pub enum Who {
    /// The connection is in plain text: nobody proves anything.
    #[default]
    Plain,
    /// Nobody who is believed.
    Nobody(Arc<Distrust>),
    /// Whom its certificate names.
    Known(Arc<Name>),
}

impl Who {
    /// The node it is.
    pub fn node(&self) -> Option<&NodeName> {
        match self {
            Who::Known(name) => match &**name {
                Name::Node(node) => Some(node),
                Name::User(_) => None,
            },
            Who::Plain | Who::Nobody(_) => None,
        }
    }

    /// The user it is.
    pub fn user(&self) -> Option<&UserName> {
        match self {
            Who::Known(name) => match &**name {
                Name::User(user) => Some(user),
                Name::Node(_) => None,
            },
            Who::Plain | Who::Nobody(_) => None,
        }
    }
}

impl From<&Distrust> for Refusal {
    fn from(why: &Distrust) -> Refusal {
        Refusal::NotTrusted { why: why.to_string() }
    }
}
