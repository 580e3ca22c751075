//! Capabilities with their sums: HMAC-SHA256 under a key that all nodes of the site hold and nobody else.

use bytes::Bytes;
use ring::hmac::{HMAC_SHA256, Key, sign, verify};
use weft_core::access::capability::{Capability, GOOD_S};
use weft_core::ids::{ClientId, SpaceId};
use weft_core::refusal::Refusal;
use weft_core::site::trust::TrustNews;

/// A capability under the newest key; `None` while the node has heard of no key.
pub fn mint(news: &TrustNews, says: Capability, now: i64) -> Option<Bytes> {
    let key = news.keys.last()?;
    let mut bytes = Capability { key: key.version, until: now + GOOD_S, ..says }.encode();
    let sum = sign(&Key::new(HMAC_SHA256, &key.secret.0), &bytes);
    bytes.extend_from_slice(sum.as_ref());
    Some(bytes.into())
}

/// Whether bytes that somebody shows give this right now.
///
/// # Errors
/// [`Refusal::NotTrusted`], with the reason; [`Refusal::Busy`] while the node has heard of no key.
pub fn check(
    news: &TrustNews,
    shown: &[u8],
    client: ClientId,
    space: SpaceId,
    right: u8,
    now: i64,
) -> Result<(), Refusal> {
    let no = |why: &str| Err(Refusal::NotTrusted { why: why.into() });
    if news.keys.is_empty() {
        return Err(Refusal::Busy { retry_after_ms: 200 });
    }
    if shown.is_empty() {
        return no("no capability was shown: open a session of the space first");
    }
    let Some((says, body, sum)) = Capability::decode(shown) else { return no("this is no capability") };
    let Some(key) = news.keys.iter().find(|key| key.version == says.key) else {
        return no("the capability was made under a key that is not good any more");
    };
    if verify(&Key::new(HMAC_SHA256, &key.secret.0), body, sum).is_err() {
        return no("the capability is forged or damaged");
    }
    says.allows(client, space, right, now)
}

#[cfg(test)]
mod tests {
    use weft_core::access::capability::{READ, WRITE};
    use weft_core::site::trust::{ChunkKey, Secret};
    use weft_core::time::Timestamp;

    use super::*;

    const CLIENT: ClientId = ClientId(9);
    const SPACE: SpaceId = SpaceId(3);

    fn news(versions: &[u32]) -> TrustNews {
        let key = |version: &u32| ChunkKey {
            version: *version,
            secret: Secret(vec![*version as u8; 32].into()),
            made: Timestamp::default(),
        };
        TrustNews { version: 1, keys: versions.iter().map(key).collect(), ..TrustNews::default() }
    }

    fn minted(news: &TrustNews, rights: u8) -> Bytes {
        mint(news, Capability { client: CLIENT, space: SPACE, rights, ..Capability::default() }, 1000).unwrap()
    }

    #[test]
    fn whoever_knows_the_key_believes_it_until_it_expires() {
        let shown = minted(&news(&[1]), READ | WRITE);
        assert_eq!(check(&news(&[1]), &shown, CLIENT, SPACE, WRITE, 1000 + GOOD_S - 1), Ok(()));
        assert!(check(&news(&[1]), &shown, CLIENT, SPACE, WRITE, 1000 + GOOD_S).is_err());
        assert!(check(&news(&[1]), &shown, CLIENT, SpaceId(4), READ, 1000).is_err());
        assert!(check(&news(&[1]), &[], CLIENT, SPACE, READ, 1000).is_err());
        assert!(mint(&news(&[]), Capability::default(), 0).is_none());
        let unheard = check(&news(&[]), &shown, CLIENT, SPACE, READ, 1000);
        assert!(matches!(unheard, Err(Refusal::Busy { .. })), "a node that was just started has heard of no key");
    }

    #[test]
    fn a_key_that_follows_ends_the_one_before_the_last() {
        let shown = minted(&news(&[1]), READ);
        assert_eq!(check(&news(&[1, 2]), &shown, CLIENT, SPACE, READ, 1000), Ok(()));
        assert!(check(&news(&[2, 3]), &shown, CLIENT, SPACE, READ, 1000).is_err());
        assert_eq!(check(&news(&[1, 2]), &minted(&news(&[1, 2]), READ), CLIENT, SPACE, READ, 1000), Ok(()));
    }

    #[test]
    fn no_byte_of_it_can_be_changed() {
        let shown = minted(&news(&[1]), READ);
        for at in 0..shown.len() {
            let mut forged = shown.to_vec();
            forged[at] ^= 1;
            assert!(check(&news(&[1]), &forged, CLIENT, SPACE, READ, 1000).is_err(), "byte {at}");
        }
    }
}
