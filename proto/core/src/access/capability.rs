//! The right to the chunks of a space, as a leader of the space's group writes it down and any chunk server reads it
//! without asking anybody. Bytes and their sum are one; who knows the key makes and checks the sum (`weft-node`).

use crate::ids::{ClientId, SpaceId, TenantId};
use crate::refusal::Refusal;

/// To read chunks, and to say that one looks damaged.
pub const READ: u8 = 1;
/// To store chunks.
pub const WRITE: u8 = 2;
/// Seconds for which a capability is good. A session's keep-alives bring fresh ones, every few seconds.
pub const GOOD_S: i64 = 180;
/// Bytes of one, without its sum.
const LEN: usize = 1 + 4 + 8 + 8 + 4 + 1 + 4 + 8;
const VERSION: u8 = 1;

/// What a capability says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capability {
    /// Version of the key of its sum.
    pub key: u32,
    /// Whose.
    pub client: ClientId,
    /// To the chunks of which space.
    pub space: SpaceId,
    /// Of which tenant.
    pub tenant: TenantId,
    /// [`READ`] and [`WRITE`].
    pub rights: u8,
    /// Class of service.
    pub qos: u32,
    /// Until when it is good, in seconds since 1970.
    pub until: i64,
}

impl Capability {
    /// Its bytes, without a sum.
    pub fn encode(&self) -> Vec<u8> {
        let Capability { key, client, space, tenant, rights, qos, until } = self;
        let mut out = Vec::with_capacity(LEN);
        out.push(VERSION);
        out.extend_from_slice(&key.to_be_bytes());
        out.extend_from_slice(&client.0.to_be_bytes());
        out.extend_from_slice(&space.0.to_be_bytes());
        out.extend_from_slice(&tenant.0.to_be_bytes());
        out.push(*rights);
        out.extend_from_slice(&qos.to_be_bytes());
        out.extend_from_slice(&until.to_be_bytes());
        out
    }

    /// From its bytes with the sum behind them; what it says is nothing before the sum is checked.
    pub fn decode(bytes: &[u8]) -> Option<(Capability, &[u8], &[u8])> {
        let (body, sum) = bytes.split_at_checked(LEN)?;
        let mut left = body;
        let [VERSION] = take(&mut left)? else { return None };
        let capability = Capability {
            key: u32::from_be_bytes(take(&mut left)?),
            client: ClientId(u64::from_be_bytes(take(&mut left)?)),
            space: SpaceId(u64::from_be_bytes(take(&mut left)?)),
            tenant: TenantId(u32::from_be_bytes(take(&mut left)?)),
            rights: u8::from_be_bytes(take(&mut left)?),
            qos: u32::from_be_bytes(take(&mut left)?),
            until: i64::from_be_bytes(take(&mut left)?),
        };
        Some((capability, body, sum))
    }

    /// Whether it gives a client this right to this space now.
    ///
    /// # Errors
    /// [`Refusal::NotTrusted`], with the reason.
    pub fn allows(&self, client: ClientId, space: SpaceId, right: u8, now: i64) -> Result<(), Refusal> {
        let no = |why: &str| Err(Refusal::NotTrusted { why: why.into() });
        if self.client != client {
            no("the capability is another client's")
        } else if self.space != space {
            no("the capability is for another space")
        } else if self.rights & right != right {
            no("the capability does not give this right")
        } else if self.until <= now {
            no("the capability has expired")
        } else {
            Ok(())
        }
    }
}

fn take<const N: usize>(left: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = left.split_first_chunk()?;
    *left = rest;
    Some(*first)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn comes_back_from_its_bytes(
            key: u32, client: u64, space: u64, tenant: u32, rights: u8, qos: u32, until: i64, sum: [u8; 4],
        ) {
            let capability = Capability {
                key, client: ClientId(client), space: SpaceId(space), tenant: TenantId(tenant), rights, qos, until,
            };
            let bytes = [&capability.encode()[..], &sum].concat();
            let body = capability.encode();
            prop_assert_eq!(Capability::decode(&bytes), Some((capability, &body[..], &sum[..])));
            for cut in 0..LEN {
                prop_assert_eq!(Capability::decode(&bytes[..cut]), None);
            }
        }
    }

    #[test]
    fn gives_one_client_some_rights_to_one_space_for_a_while() {
        let (anna, bert) = (ClientId(1), ClientId(2));
        let capability =
            Capability { client: anna, space: SpaceId(7), rights: READ, until: 100, ..Capability::default() };
        assert_eq!(capability.allows(anna, SpaceId(7), READ, 99), Ok(()));
        assert!(capability.allows(anna, SpaceId(7), READ, 100).is_err());
        assert!(capability.allows(anna, SpaceId(7), WRITE, 99).is_err());
        assert!(capability.allows(anna, SpaceId(7), READ | WRITE, 99).is_err());
        assert!(capability.allows(anna, SpaceId(8), READ, 99).is_err());
        assert!(capability.allows(bert, SpaceId(7), READ, 99).is_err());
    }
}
