//! The file that makes its holder a user, or a node: a certificate, its key, and the authorities to believe, as PEM.
//! Only its owner may be able to read it.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use super::keys::Held;
use super::verify::is_cross;

/// Bytes of a credential file at the most.
const MAX_FILE: u64 = 256 << 10;
const UNTIL: &str = "# until ";

/// Why a credential can't be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The file can't be read or written.
    #[error("credential {path}: {source}")]
    File {
        /// Which.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// Others than its owner can read it.
    #[error("credential {path} can be read by others (mode {mode:03o}): chmod 600 {path}")]
    Open {
        /// Which.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// It is none.
    #[error("{0} is no credential: it must hold a certificate, its private key and the site's authority")]
    Garbled(String),
}

/// A certificate with its key, the authorities to believe, and until when it is good.
#[derive(Clone)]
pub struct Credential {
    /// What proves who its holder is.
    pub held: Held,
    /// Until when it is good, in seconds since 1970; what the file says, the certificate decides.
    pub until: i64,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential(until {})", self.until)
    }
}

impl Credential {
    /// Reads a credential from a file that nobody but its owner can read.
    ///
    /// # Errors
    /// Others can read the file; it can't be read, or is no credential.
    pub fn load(path: &Path) -> Result<Credential, CredentialError> {
        let name = path.display().to_string();
        let failed = |source| CredentialError::File { path: name.clone(), source };
        let mut file = File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(CredentialError::Open { path: name, mode });
        }
        let mut text = Zeroizing::new(String::new());
        (&mut file).take(MAX_FILE).read_to_string(&mut text).map_err(failed)?;
        Credential::parse(&text).ok_or(CredentialError::Garbled(name))
    }

    /// Writes it to a new file that only its owner can read, durably.
    ///
    /// # Errors
    /// The file exists, or can't be written.
    pub fn store(&self, path: &Path) -> Result<(), CredentialError> {
        let failed = |source| CredentialError::File { path: path.display().to_string(), source };
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
        file.write_all(self.print().as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
    }

    /// Of what a site answered: `others` are authorities and what leads from one to another.
    pub fn of(
        certificate: Vec<u8>,
        key: Zeroizing<Vec<u8>>,
        others: impl IntoIterator<Item = Vec<u8>>,
        until: i64,
    ) -> Credential {
        let (authorities, crosses) = others.into_iter().partition(|der| !is_cross(der));
        Credential { held: Held { certificate, key, authorities, crosses }, until }
    }

    /// From its text.
    pub fn parse(text: &str) -> Option<Credential> {
        let until = text.lines().find_map(|line| line.strip_prefix(UNTIL)?.trim().parse().ok())?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).ok()?;
        let key = Zeroizing::new(key.secret_pkcs8_der().to_vec());
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
        let mut certificates = certificates.ok()?.into_iter().map(|der| der.to_vec());
        let certificate = certificates.next()?;
        let credential = Credential::of(certificate, key, certificates, until);
        (!credential.held.authorities.is_empty()).then_some(credential)
    }

    /// As text.
    pub fn print(&self) -> Zeroizing<String> {
        let mut out = Zeroizing::new(String::from("# A credential of Weft. Whoever can read it is its holder.\n"));
        out.push_str(&format!("{UNTIL}{}\n", self.until));
        section(&mut out, "CERTIFICATE", &self.held.certificate);
        section(&mut out, "PRIVATE KEY", &self.held.key);
        for authority in self.held.authorities.iter().chain(&self.held.crosses) {
            section(&mut out, "CERTIFICATE", authority);
        }
        out
    }
}

fn section(out: &mut String, what: &str, der: &[u8]) {
    let text = Zeroizing::new(STANDARD.encode(der));
    out.push_str(&format!("-----BEGIN {what}-----\n"));
    for line in text.as_bytes().chunks(64) {
        out.extend(line.iter().map(|byte| char::from(*byte)));
        out.push('\n');
    }
    out.push_str(&format!("-----END {what}-----\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Credential {
        let held = Held {
            certificate: vec![1; 100],
            key: Zeroizing::new(b"a private key".to_vec()),
            authorities: vec![vec![2; 70], vec![3]],
            crosses: Vec::new(),
        };
        Credential { held, until: 12345 }
    }

    #[test]
    fn comes_back_from_its_file_which_only_its_owner_can_read() {
        let folder = std::env::temp_dir().join(format!("weft-credential-{}", std::process::id()));
        let path = folder.join("deep/credential");
        some().store(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let read = Credential::load(&path).unwrap();
        assert_eq!((&read.held.certificate, &read.held.key), (&some().held.certificate, &some().held.key));
        assert_eq!((&read.held.authorities, read.until), (&some().held.authorities, 12345));
        assert!(some().store(&path).is_err(), "one that is there is never overwritten");

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let refused = Credential::load(&path).unwrap_err().to_string();
        assert!(refused.contains("640") && refused.contains("chmod 600"), "{refused}");
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_is_none_is_refused_and_what_is_one_is_not_shown() {
        assert!(Credential::parse("").is_none());
        let text = some().print();
        assert!(Credential::parse(&text.replace("PRIVATE", "PUBLIC")).is_none());
        assert!(Credential::parse(&text.replace("# until", "# since")).is_none());
        assert_eq!(format!("{:?} {:?}", some(), some().held), "Credential(until 12345) Held");
    }
}
