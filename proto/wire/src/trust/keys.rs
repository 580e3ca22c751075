//! What a process holds to prove who it is and to judge others. It can be replaced while connections stand: those that
//! begin later use what is held then.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use parking_lot::RwLock;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use weft_core::ids::{PrincipalId, SiteId};
use zeroize::Zeroizing;

use super::names::Name;
use super::verify::{Distrust, Fingerprint, HasTheKey, NodesOnly, Roots, judge};

/// What speaks HTTP/2 over TLS says in the handshake.
const ALPN: &[u8] = b"h2";

/// Seconds since 1970, now.
pub type Now = Arc<dyn Fn() -> u64 + Send + Sync>;

/// A certificate with its key, and the authorities that its holder believes.
#[derive(Clone)]
pub struct Held {
    /// DER.
    pub certificate: Vec<u8>,
    /// PKCS#8.
    pub key: Zeroizing<Vec<u8>>,
    /// DER.
    pub authorities: Vec<Vec<u8>>,
    /// What leads from former authorities to later ones, sent along for those who know only a former one. DER.
    pub crosses: Vec<Vec<u8>>,
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Held")
    }
}

/// A fresh key.
pub struct NewKey {
    /// PKCS#8.
    pub private: Zeroizing<Vec<u8>>,
    /// What may be told: 32 bytes.
    pub public: Vec<u8>,
}

/// Makes an Ed25519 key.
///
/// # Errors
/// The system gives no randomness.
pub fn new_key() -> Result<NewKey, Distrust> {
    let failed = |what: String| Distrust::Handshake(format!("make a key: {what}"));
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|error| failed(error.to_string()))?;
    let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).map_err(|error| failed(error.to_string()))?;
    Ok(NewKey { private: Zeroizing::new(pkcs8.as_ref().to_vec()), public: pair.public_key().as_ref().to_vec() })
}

/// What both sides of connections use. Cloning shares it.
#[derive(Clone)]
pub struct Trust {
    now: Clocked,
    state: Arc<RwLock<Arc<State>>>,
    revoked: Arc<RwLock<Arc<BTreeSet<PrincipalId>>>>,
}

pub(super) struct State {
    pub(super) client: Arc<ClientConfig>,
    pub(super) server: Option<Arc<ServerConfig>>,
    pub(super) roots: Roots,
    pub(super) site: Option<SiteId>,
    own: Option<Name>,
}

#[derive(Clone)]
struct Clocked(Now);

impl fmt::Debug for Clocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clocked")
    }
}

impl TimeProvider for Clocked {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.time())
    }
}

impl Clocked {
    fn time(&self) -> UnixTime {
        UnixTime::since_unix_epoch(std::time::Duration::from_secs((self.0)()))
    }
}

impl Trust {
    /// Holds what a node or a user has.
    ///
    /// # Errors
    /// The certificate is not good now, or the key does not fit it.
    pub fn new(held: &Held, now: Now) -> Result<Trust, Distrust> {
        let now = Clocked(now);
        let state = state(held, &now)?;
        Ok(Trust { now, state: Arc::new(RwLock::new(Arc::new(state))), revoked: Arc::default() })
    }

    /// Holds nothing, and believes the one authority that a join token names.
    ///
    /// # Errors
    /// TLS can't be set up.
    pub fn joining(authority: Fingerprint, now: Now) -> Result<Trust, Distrust> {
        let now = Clocked(now);
        let roots = Roots::Named(authority);
        let client = client(&roots, None, None, &now)?;
        let state = State { client: Arc::new(client), server: None, roots, site: None, own: None };
        Ok(Trust { now, state: Arc::new(RwLock::new(Arc::new(state))), revoked: Arc::default() })
    }

    /// Holds something else from now on.
    ///
    /// # Errors
    /// As [`Trust::new`]; what was held stays.
    pub fn replace(&self, held: &Held) -> Result<(), Distrust> {
        let new = state(held, &self.now)?;
        *self.state.write() = Arc::new(new);
        Ok(())
    }

    /// These users are refused from now on, also on connections that stand.
    pub fn revoke(&self, revoked: BTreeSet<PrincipalId>) {
        *self.revoked.write() = Arc::new(revoked);
    }

    /// Whether a user is refused.
    pub fn is_revoked(&self, user: PrincipalId) -> bool {
        self.revoked.read().contains(&user)
    }

    /// Whom the own certificate names.
    pub fn own(&self) -> Option<Name> {
        self.state().own.clone()
    }

    pub(super) fn state(&self) -> Arc<State> {
        self.state.read().clone()
    }

    /// Whom a peer's certificates name, if they are to be believed now.
    pub(super) fn judge(&self, state: &State, chain: &[CertificateDer<'_>]) -> Result<Name, Distrust> {
        judge(chain, &state.roots, state.site, &|user| self.is_revoked(user), self.now.time())
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trust({:?})", self.state().own)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn state(held: &Held, now: &Clocked) -> Result<State, Distrust> {
    let own = vec![CertificateDer::from(held.certificate.clone())];
    let authorities: Vec<_> = held.authorities.iter().map(|der| CertificateDer::from(der.clone())).collect();
    let roots = Roots::These(authorities.clone());
    let name = judge(&own, &roots, None, &|_| false, now.time())?;
    let site = Some(name.site());
    // The authorities go along: whoever joins knows only the fingerprint of one.
    let crosses: Vec<_> = held.crosses.iter().map(|der| CertificateDer::from(der.clone())).collect();
    let shown: Vec<_> = own.into_iter().chain(crosses).collect();
    let chain: Vec<_> = shown.iter().cloned().chain(authorities).collect();
    let client = client(&roots, site, Some((shown, key(held))), now)?;
    let server = match name {
        Name::Node(_) => Some(Arc::new(server(chain, key(held), now)?)),
        Name::User(_) => None,
    };
    Ok(State { client: Arc::new(client), server, roots, site, own: Some(name) })
}

fn key(held: &Held) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(held.key.to_vec()))
}

fn handshake(error: rustls::Error) -> Distrust {
    Distrust::Handshake(error.to_string())
}

fn client(
    roots: &Roots,
    site: Option<SiteId>,
    own: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    now: &Clocked,
) -> Result<ClientConfig, Distrust> {
    let provider = provider();
    let verifier = Arc::new(NodesOnly { provider: provider.clone(), roots: roots.clone(), site });
    let builder = ClientConfig::builder_with_details(provider, Arc::new(now.clone()))
        .with_protocol_versions(&[&TLS13])
        .map_err(handshake)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match own {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(handshake)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_sni = false;
    // Every connection proves anew who it is: what was revoked since does not come in on an old ticket.
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn server(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    now: &Clocked,
) -> Result<ServerConfig, Distrust> {
    let provider = provider();
    let mut config = ServerConfig::builder_with_details(provider.clone(), Arc::new(now.clone()))
        .with_protocol_versions(&[&TLS13])
        .map_err(handshake)?
        .with_client_cert_verifier(Arc::new(HasTheKey { provider }))
        .with_single_cert(chain, key)
        .map_err(handshake)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}
