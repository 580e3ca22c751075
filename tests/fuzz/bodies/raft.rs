//! What replicas of a group say to each other and keep of it.

use bytes::Bytes;
use weft_node::meta::raft_fuzzing::again;

use super::frugal::frugal;

/// Whatever decodes comes back as it was.
pub fn body(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    for (what, first) in frugal(data.len(), || again(&bytes)) {
        let twice = again(&first);
        assert!(twice.contains(&(what, first)), "a {what} does not come back");
    }
}
