//! Makes authorities and signs certificates. Ed25519 throughout: signing needs no randomness.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ED25519, PublicKeyData, SanType, SignatureAlgorithm, string::Ia5String,
};
use rustls::pki_types::PrivatePkcs8KeyDer;
use weft_core::ids::SiteId;
use weft_core::site::trust::{Authority, Secret};
use weft_proto::trust::Name;
use zeroize::Zeroizing;

/// Seconds for which an authority is good.
pub const AUTHORITY_S: i64 = 10 * 365 * 86_400;
/// Seconds for which a node's certificate is good; it is renewed when a third of them is left.
pub const NODE_S: i64 = 90 * 86_400;
/// Seconds for which a user's credential is good unless somebody says otherwise.
pub const USER_S: i64 = 365 * 86_400;
/// Clocks of machines may differ by so many seconds.
const SKEW_S: i64 = 300;
/// Bytes of an Ed25519 public key.
const PUBLIC_KEY: usize = 32;

/// Signing failed: a key that is none, or a name that can't stand in a certificate.
#[derive(Debug, thiserror::Error)]
#[error("make a certificate: {0}")]
pub struct SignError(String);

impl SignError {
    /// For a key that can't be made.
    pub fn of(error: &dyn std::error::Error) -> SignError {
        SignError(error.to_string())
    }
}

impl From<rcgen::Error> for SignError {
    fn from(error: rcgen::Error) -> SignError {
        SignError(error.to_string())
    }
}

/// Makes an authority for a site, good from `now`, in seconds since 1970; `before` is the one that it follows.
///
/// # Errors
/// [`SignError`].
pub fn make(site: SiteId, now: i64, before: Option<&Authority>) -> Result<Authority, SignError> {
    let number = before.map_or(1, |before| before.number + 1);
    let key = KeyPair::generate_for(&PKCS_ED25519)?;
    let params = params(site, number, now, now + AUTHORITY_S)?;
    let certificate = params.self_signed(&key)?.der().to_vec();
    let cross = match before {
        Some(before) => params.signed_by(&key, &issuer(site, before)?)?.der().to_vec(),
        None => Vec::new(),
    };
    let private = Zeroizing::new(key.serialize_der());
    Ok(Authority { number, certificate: certificate.into(), cross: cross.into(), key: Secret(private.to_vec().into()) })
}

fn issuer(site: SiteId, authority: &Authority) -> Result<Issuer<'static, KeyPair>, SignError> {
    let pkcs8 = PrivatePkcs8KeyDer::from(&authority.key.0[..]);
    let key = KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, &PKCS_ED25519)?;
    // Of an authority only its name and its key matter here.
    Ok(Issuer::new(params(site, authority.number, 0, 0)?, key))
}

/// A certificate for whoever has the private half of `public_key`, good from `now` until `until`.
///
/// # Errors
/// [`SignError`].
pub fn sign(authority: &Authority, name: &Name, public_key: &[u8], now: i64, until: i64) -> Result<Vec<u8>, SignError> {
    if public_key.len() != PUBLIC_KEY {
        return Err(SignError(format!("a public key has {PUBLIC_KEY} bytes")));
    }
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + since(now - SKEW_S);
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + since(until);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name.short());
    params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(name.to_string())?)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    Ok(params.signed_by(&PublicKey(public_key), &issuer(name.site(), authority)?)?.der().to_vec())
}

fn params(site: SiteId, number: u32, from: i64, until: i64) -> Result<CertificateParams, SignError> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + since(from - SKEW_S);
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + since(until);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("Weft site {site}, authority {number}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(4));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Ok(params)
}

fn since(secs: i64) -> Duration {
    Duration::from_secs(secs.max(0).unsigned_abs())
}

struct PublicKey<'a>(&'a [u8]);

impl PublicKeyData for PublicKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0
    }
    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ED25519
    }
}
