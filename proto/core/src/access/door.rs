//! Which calls are for whom: one table over every call of the schema. What the table does not name is for nodes alone.

/// What a caller must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Anybody: whoever joins has no certificate yet, and proves its token instead.
    Nothing,
    /// A user or a node; the service decides what of it.
    User,
    /// A user with the role admin, or a node.
    Admin,
    /// A node of the site.
    Node,
}

/// What the caller of `/weft.v1.Service/Call` must be.
pub fn need(path: &str) -> Need {
    match path.strip_prefix("/weft.v1.").unwrap_or_default() {
        "Site/Join" => Need::Nothing,
        "Site/Map" | "Site/ClientIds" | "Site/NodeStatus" | "Site/Whoami" => Need::User,
        "Site/CreateVolume" | "Site/DeleteVolume" | "Site/DrainNode" | "Site/RemoveNode" | "Site/Trust" => Need::Admin,
        "Meta/Apply" | "Meta/Query" | "Meta/OpenSession" | "Meta/EndSession" | "Meta/KeepAlive" | "Meta/Recalls" => {
            Need::User
        }
        "Chunk/Put" | "Chunk/Get" | "Chunk/Suspect" => Need::User,
        "Chunk/List" => Need::Admin,
        call if call.starts_with("Fsck/") => Need::Admin,
        // Site/Heartbeat, Site/Renew, Meta/Garbage, Chunk/Delete, Chunk/Digest, all of Raft.
        _ => Need::Node,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_votes_chunks_and_leases_is_for_nodes_alone() {
        for path in [
            "/weft.v1.Raft/Append",
            "/weft.v1.Raft/Call",
            "/weft.v1.Raft/Snapshot",
            "/weft.v1.Site/Heartbeat",
            "/weft.v1.Site/Renew",
            "/weft.v1.Chunk/Delete",
            "/weft.v1.Chunk/Digest",
            "/weft.v1.Meta/Garbage",
            "/weft.v1.Meta/SomethingNew",
            "/grpc.health.v1.Health/Check",
            "",
        ] {
            assert_eq!(need(path), Need::Node, "{path}");
        }
        assert_eq!(need("/weft.v1.Site/Join"), Need::Nothing);
        assert_eq!(need("/weft.v1.Meta/Apply"), Need::User);
        assert_eq!(need("/weft.v1.Site/Trust"), Need::Admin);
    }
}
