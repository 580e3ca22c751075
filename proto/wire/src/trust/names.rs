//! Whom a certificate names, as the URI among its names says: `weft://SITE/node/NODE/LIFE` or
//! `weft://SITE/user/NUMBER/NAME?tenant=..&groups=..&roles=..&uids=..&gids=..`.

use std::fmt;
use std::str::FromStr;

use weft_core::access::principal::Principal;
use weft_core::ids::{Incarnation, NodeId, PrincipalId, ReplicaId, SiteId, TenantId};

/// Whom a certificate names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// A node.
    Node(NodeName),
    /// A user.
    User(UserName),
}

/// A node of a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeName {
    /// The site.
    pub site: SiteId,
    /// Which life of which node.
    pub replica: ReplicaId,
}

/// A user of a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserName {
    /// The site.
    pub site: SiteId,
    /// Who.
    pub principal: Principal,
}

impl Name {
    /// The site of either.
    pub fn site(&self) -> SiteId {
        match self {
            Name::Node(node) => node.site,
            Name::User(user) => user.site,
        }
    }

    /// In few words.
    pub fn short(&self) -> String {
        match self {
            Name::Node(node) => format!("node {}", node.replica.node),
            Name::User(user) => format!("user {}", user.principal.name),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Name::Node(NodeName { site, replica }) => {
                write!(f, "weft://{site}/node/{}/{:016x}", replica.node, replica.incarnation.0)
            }
            Name::User(UserName { site, principal }) => {
                let Principal { id, name, tenant, groups, roles, uids, gids } = principal;
                write!(f, "weft://{site}/user/{id}/{name}?tenant={tenant}")?;
                write!(f, "&groups={}&roles={}&uids={uids}&gids={gids}", groups.join(","), roles.join(","))
            }
        }
    }
}

/// A URI that names nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the name is of no node and no user of Weft")]
pub struct NoName;

impl FromStr for Name {
    type Err = NoName;

    fn from_str(uri: &str) -> Result<Name, NoName> {
        let rest = uri.strip_prefix("weft://").ok_or(NoName)?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut parts = path.split('/');
        let mut part = || parts.next().ok_or(NoName);
        let site = SiteId(part()?.parse().map_err(|_| NoName)?);
        let name = match part()? {
            "node" => {
                let node = NodeId(part()?.parse().map_err(|_| NoName)?);
                let incarnation = Incarnation(u64::from_str_radix(part()?, 16).map_err(|_| NoName)?);
                Name::Node(NodeName { site, replica: ReplicaId { node, incarnation } })
            }
            "user" => {
                let id = PrincipalId(part()?.parse().map_err(|_| NoName)?);
                let name = part()?.to_string();
                Name::User(UserName { site, principal: fields(query, Principal { id, name, ..Principal::default() })? })
            }
            _ => return Err(NoName),
        };
        match parts.next() {
            None => Ok(name),
            Some(_) => Err(NoName),
        }
    }
}

fn fields(query: &str, mut principal: Principal) -> Result<Principal, NoName> {
    let words = |list: &str| list.split(',').filter(|word| !word.is_empty()).map(str::to_string).collect();
    for field in query.split('&').filter(|field| !field.is_empty()) {
        let (key, value) = field.split_once('=').ok_or(NoName)?;
        match key {
            "tenant" => principal.tenant = TenantId(value.parse().map_err(|_| NoName)?),
            "groups" => principal.groups = words(value),
            "roles" => principal.roles = words(value),
            "uids" => principal.uids = value.parse().map_err(|_| NoName)?,
            "gids" => principal.gids = value.parse().map_err(|_| NoName)?,
            // What a later version adds must not be ignored: it may narrow what is allowed.
            _ => return Err(NoName),
        }
    }
    principal.check().map_err(|_| NoName)?;
    Ok(principal)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weft_core::access::principal::IdRanges;

    use super::*;

    fn words() -> impl Strategy<Value = Vec<String>> {
        prop::collection::vec("[a-zA-Z0-9._-]{1,64}", 0..4)
    }

    fn ranges() -> impl Strategy<Value = IdRanges> {
        prop::collection::vec((any::<u32>(), any::<u32>()), 0..4)
            .prop_map(|pairs| IdRanges(pairs.into_iter().map(|(a, b)| (a.min(b), a.max(b))).collect()))
    }

    proptest! {
        #[test]
        fn names_come_back_from_their_text(
            site: u32, id: u64, name in "[a-zA-Z0-9._-]{1,64}", tenant: u32,
            groups in words(), roles in words(), uids in ranges(), gids in ranges(), node: u32, life: u64,
        ) {
            let principal =
                Principal { id: PrincipalId(id), name, tenant: TenantId(tenant), groups, roles, uids, gids };
            let user = Name::User(UserName { site: SiteId(site), principal });
            prop_assert_eq!(user.to_string().parse::<Name>(), Ok(user));
            let replica = ReplicaId { node: NodeId(node), incarnation: Incarnation(life) };
            let node = Name::Node(NodeName { site: SiteId(site), replica });
            prop_assert_eq!(node.to_string().parse::<Name>(), Ok(node));
        }

        #[test]
        fn any_text_is_a_name_or_refused(text in "(weft://)?[0-9a-z/?=&,*.-]{0,60}") {
            let _ = text.parse::<Name>();
        }
    }

    #[test]
    fn other_names_are_refused() {
        for bad in [
            "https://5/node/3/7",
            "weft://5/node/3",
            "weft://5/node/3/7/8",
            "weft://5/node/x/7",
            "weft://5/gateway/3/7",
            "weft://5/user/3",
            "weft://5/user/3/an na",
            "weft://5/user/3/anna?uids=x",
            "weft://5/user/3/anna?only_on=monday",
        ] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }
}
