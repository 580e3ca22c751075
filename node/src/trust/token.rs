//! Join tokens: one word that names the token, proves it, and says which authority the joiner is to believe.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use ring::digest::{SHA256, digest};
use weft_proto::trust::Fingerprint;
use zeroize::Zeroizing;

use crate::parts::Dice;

const PREFIX: &str = "weft-join-";

/// A join token as it is handed from one person to another.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Which.
    pub id: u64,
    /// What only its holder and, as a hash, the site know.
    pub secret: Zeroizing<[u8; 16]>,
    /// The authority of the site.
    pub authority: Fingerprint,
}

impl JoinToken {
    /// A new one.
    pub fn roll(dice: &dyn Dice, authority: Fingerprint) -> JoinToken {
        let mut secret = Zeroizing::new([0; 16]);
        secret[..8].copy_from_slice(&dice.roll().to_be_bytes());
        secret[8..].copy_from_slice(&dice.roll().to_be_bytes());
        JoinToken { id: dice.roll(), secret, authority }
    }
}

/// What the site remembers of a secret.
pub fn hash(secret: &[u8]) -> Bytes {
    Bytes::copy_from_slice(digest(&SHA256, secret).as_ref())
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({:016x})", self.id)
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{:016x}-", self.id)?;
        self.secret.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        write!(f, "-{:?}", self.authority)
    }
}

/// A text that is no join token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no join token: `weft cluster token` prints one, and all of it is needed")]
pub struct NoToken;

impl FromStr for JoinToken {
    type Err = NoToken;

    fn from_str(text: &str) -> Result<JoinToken, NoToken> {
        let rest = text.trim().strip_prefix(PREFIX).ok_or(NoToken)?;
        let mut parts = rest.split('-');
        let mut part = || parts.next().ok_or(NoToken);
        let id: [u8; 8] = unhex(part()?)?;
        let secret = Zeroizing::new(unhex(part()?)?);
        let authority = Fingerprint(unhex(part()?)?);
        match parts.next() {
            None => Ok(JoinToken { id: u64::from_be_bytes(id), secret, authority }),
            Some(_) => Err(NoToken),
        }
    }
}

fn unhex<const N: usize>(text: &str) -> Result<[u8; N], NoToken> {
    let mut bytes = [0; N];
    if text.len() != 2 * N || !text.is_ascii() {
        return Err(NoToken);
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| NoToken)?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| NoToken)?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real::OsDice;

    #[test]
    fn a_token_comes_back_from_its_word_and_half_of_it_does_not() {
        let token = JoinToken::roll(&OsDice, Fingerprint([7; 32]));
        let word = token.to_string();
        assert_eq!(word.parse::<JoinToken>(), Ok(token.clone()));
        assert_eq!(format!(" {word}\n").parse::<JoinToken>(), Ok(token.clone()));
        for cut in 0..word.len() {
            assert_eq!(word[..cut].parse::<JoinToken>(), Err(NoToken), "{cut}");
        }
        assert_eq!(format!("{word}-1").parse::<JoinToken>(), Err(NoToken));
        assert_eq!(word.replace("weft-join", "other").parse::<JoinToken>(), Err(NoToken));
        let shown = format!("{token:?}");
        assert!(!shown.contains(&word[27..40]), "{shown}");
    }
}
