//! Segments of the log: headers and records, as they lie on a disk that may have garbled them.

use bytes::Bytes;
use weft_node::meta::log::fuzzing;

use super::frugal::frugal;

/// Of the segment that the bytes are taken for.
pub const SALT: u64 = 0xabcd_1234_5678;
/// Where in it they are.
pub const POSITION: u64 = 3 << 32 | 8192;

/// The bytes as they are, and as if stamp, length and sum were right.
pub fn body(data: &[u8]) {
    check(data);
    let mut sealed = data.to_vec();
    fuzzing::seal(SALT, POSITION, &mut sealed);
    fuzzing::seal_header(&mut sealed);
    check(&sealed);
    let mut sealed = data.to_vec();
    fuzzing::seal(SALT, POSITION, &mut sealed);
    check(&sealed);
}

fn check(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    if let Some((record, len)) = frugal(data.len(), || fuzzing::again(SALT, POSITION, &bytes)) {
        assert!(len <= data.len(), "a record ends behind its bytes");
        let twice = fuzzing::again(SALT, POSITION, &record).expect("what was just encoded decodes");
        assert_eq!(twice, (record, len));
        assert!(fuzzing::again(SALT + 1, POSITION, &bytes).is_none(), "a record of a former life decodes");
        assert!(fuzzing::again(SALT, POSITION + 8, &bytes).is_none(), "a record decodes in another place");
        assert!(fuzzing::again(SALT, POSITION, &bytes.slice(..len - 1)).is_none(), "a record decodes that is cut off");
    }
    if let Some(header) = fuzzing::header_again(data) {
        assert_eq!(fuzzing::header_again(&header), Some(header));
    }
}
