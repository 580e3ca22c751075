//! What of a certificate is believed: that an authority of the site signed it, that it is good now, and whom it names.

use std::fmt;
use std::sync::Arc;

use ring::digest::{SHA256, digest};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use weft_core::ids::{NodeId, PrincipalId, SiteId};

use super::names::Name;

/// Why a peer is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Distrust {
    /// It shows nothing.
    #[error(
        "no credential was shown; this site lets in only whom it knows: name your credential file with --credential or WEFT_CREDENTIAL"
    )]
    NoCertificate,
    /// What it shows can't be read.
    #[error("the certificate can't be read: {0}")]
    Garbled(String),
    /// Another authority signed it.
    #[error("the certificate was signed by another authority than this site's")]
    WrongAuthority,
    /// It signed itself.
    #[error("the certificate is self-signed")]
    SelfSigned,
    /// It is over.
    #[error("the certificate of {whom} expired {ago_s} s ago")]
    Expired {
        /// Whose.
        whom: String,
        /// How long ago.
        ago_s: u64,
    },
    /// It has not begun.
    #[error("the certificate of {whom} is good only in {in_s} s: is a clock wrong?")]
    NotYet {
        /// Whose.
        whom: String,
        /// In how long.
        in_s: u64,
    },
    /// It names nobody of Weft.
    #[error("the certificate names no node and no user of Weft")]
    NoName,
    /// It is of another site.
    #[error("the certificate is of site {found}, this is site {expected}")]
    WrongSite {
        /// Of which.
        found: SiteId,
        /// Of which it should be.
        expected: SiteId,
    },
    /// A user answers where a node should.
    #[error("{whom} answers where a node should: a user's certificate is not a node's")]
    NotANode {
        /// Who.
        whom: String,
    },
    /// Another node answers.
    #[error("node {found} answers where node {expected} should")]
    WrongNode {
        /// Which.
        found: NodeId,
        /// Which should.
        expected: NodeId,
    },
    /// It was revoked.
    #[error("the credential of user {name} was revoked")]
    Revoked {
        /// Whose.
        name: String,
    },
    /// The handshake failed otherwise.
    #[error("{0}")]
    Handshake(String),
}

/// SHA-256 of an authority's certificate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// Of a certificate.
    pub fn of(certificate: &[u8]) -> Fingerprint {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, certificate).as_ref());
        Fingerprint(bytes)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Whether a certificate says that this authority signed it.
pub fn issued_by(certificate: &[u8], authority: &[u8]) -> bool {
    let (certificate, authority) = (CertificateDer::from(certificate), CertificateDer::from(authority));
    match (webpki::EndEntityCert::try_from(&certificate), webpki::EndEntityCert::try_from(&authority)) {
        (Ok(certificate), Ok(authority)) => certificate.issuer() == authority.subject(),
        _ => false,
    }
}

/// Whether it leads from one authority to another, rather than from one to itself.
pub(super) fn is_cross(certificate: &[u8]) -> bool {
    let certificate = CertificateDer::from(certificate);
    webpki::EndEntityCert::try_from(&certificate).is_ok_and(|parsed| parsed.issuer() != parsed.subject())
}

/// Which authorities are believed.
#[derive(Clone, Debug)]
pub(super) enum Roots {
    /// These.
    These(Vec<CertificateDer<'static>>),
    /// The one with this fingerprint, which the peer must send along.
    Named(Fingerprint),
}

/// Whom a chain names, if it is to be believed now. The first certificate is the peer's own.
///
/// # Errors
/// Why not.
pub(super) fn judge(
    chain: &[CertificateDer<'_>],
    roots: &Roots,
    site: Option<SiteId>,
    revoked: &dyn Fn(PrincipalId) -> bool,
    now: UnixTime,
) -> Result<Name, Distrust> {
    let (own, others) = chain.split_first().ok_or(Distrust::NoCertificate)?;
    let certificate = webpki::EndEntityCert::try_from(own).map_err(|error| Distrust::Garbled(error.to_string()))?;
    // Not believed yet, only for the words.
    let name = certificate.valid_uri_names().find_map(|uri| uri.parse::<Name>().ok());
    let named = match roots {
        Roots::These(_) => None,
        Roots::Named(fingerprint) => others.iter().find(|other| Fingerprint::of(other) == *fingerprint),
    };
    let believed = match roots {
        Roots::These(roots) => roots.iter().collect::<Vec<_>>(),
        Roots::Named(_) => named.into_iter().collect(),
    };
    let anchors = believed
        .into_iter()
        .map(|root| webpki::anchor_from_trusted_cert(root))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Distrust::Garbled(error.to_string()))?;
    let usage = webpki::KeyUsage::client_auth();
    let checked =
        certificate.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &anchors, others, now, usage, None, None).map(drop);
    let whom = || name.as_ref().map_or("somebody".to_string(), Name::short);
    let since = |then: UnixTime| now.as_secs().abs_diff(then.as_secs());
    match checked {
        Ok(()) => {}
        Err(webpki::Error::CertExpired { not_after, .. }) => {
            return Err(Distrust::Expired { whom: whom(), ago_s: since(not_after) });
        }
        Err(webpki::Error::CertNotValidYet { not_before, .. }) => {
            return Err(Distrust::NotYet { whom: whom(), in_s: since(not_before) });
        }
        Err(webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey) => {
            return Err(match certificate.issuer() == certificate.subject() {
                true => Distrust::SelfSigned,
                false => Distrust::WrongAuthority,
            });
        }
        Err(webpki::Error::CaUsedAsEndEntity) => return Err(Distrust::SelfSigned),
        Err(error) => return Err(Distrust::Garbled(error.to_string())),
    }
    let name = name.ok_or(Distrust::NoName)?;
    if let Some(expected) = site.filter(|site| *site != name.site()) {
        return Err(Distrust::WrongSite { found: name.site(), expected });
    }
    match &name {
        Name::User(user) if revoked(user.principal.id) => Err(Distrust::Revoked { name: user.principal.name.clone() }),
        _ => Ok(name),
    }
}

/// Before a request is sent: the peer must be a node of the site. A failure is kept whole in rustls' error.
#[derive(Debug)]
pub(super) struct NodesOnly {
    pub(super) provider: Arc<CryptoProvider>,
    pub(super) roots: Roots,
    pub(super) site: Option<SiteId>,
}

impl ServerCertVerifier for NodesOnly {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain: Vec<_> = [own].into_iter().chain(others).cloned().collect();
        let name = judge(&chain, &self.roots, self.site, &|_| false, now);
        let node = name.and_then(|name| match name {
            Name::Node(_) => Ok(()),
            Name::User(_) => Err(Distrust::NotANode { whom: name.short() }),
        });
        node.map(|()| ServerCertVerified::assertion()).map_err(|why| Error::General(why.to_string()))
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("only TLS 1.3 is spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Within the handshake a peer only proves that it has the key of the certificate it shows. Whether that is believed is
/// judged right after, so that a peer that is not can be told why in words.
#[derive(Debug)]
pub(super) struct HasTheKey {
    pub(super) provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for HasTheKey {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("only TLS 1.3 is spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
