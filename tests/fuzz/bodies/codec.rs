//! Records, commands, replies, site maps and keys: what replicas write and send to each other.

use weft_core::fuzzing;
use weft_core::limits::{MAX_NAME, MAX_XATTR_NAME};
use weft_core::name::{Name, XattrName};

use super::frugal::frugal;

/// Whatever decodes says what its bytes say and nothing else: no two byte strings mean the same.
pub fn body(data: &[u8]) {
    for (what, bytes) in frugal(data.len(), || fuzzing::again(data)) {
        assert_eq!(&bytes[..], data, "a {what} is encoded in two ways");
    }
    fuzzing::take_key_apart(data);
    if let Ok(name) = Name::parse(data.to_vec()) {
        assert_eq!(name.as_bytes(), data);
        assert!((1..=MAX_NAME).contains(&data.len()) && !data.contains(&b'/') && !data.contains(&0));
        assert!(data != b"." && data != b"..");
    }
    if let Ok(name) = XattrName::parse(data.to_vec()) {
        assert_eq!(name.as_bytes(), data);
        assert!((1..=MAX_XATTR_NAME).contains(&data.len()) && !data.contains(&0));
    }
}
