//! Names of directory entries and of extended attributes: parsed once, good everywhere after.

use bytes::Bytes;

use crate::limits::{MAX_NAME, MAX_XATTR_NAME};
use crate::refusal::Refusal;

/// One component of a path: 1 to 255 bytes, no `/`, no NUL, not `.` or `..`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Bytes);

impl Name {
    /// Checks and takes a name.
    ///
    /// # Errors
    /// [`Refusal::NameTooLong`] beyond [`MAX_NAME`]; [`Refusal::BadName`] for an empty name, `.`, `..`, `/` or NUL.
    pub fn parse(bytes: impl Into<Bytes>) -> Result<Name, Refusal> {
        let bytes = bytes.into();
        if bytes.len() > MAX_NAME {
            return Err(Refusal::NameTooLong { len: bytes.len() as u64 });
        }
        if bytes.is_empty() || &bytes[..] == b"." || &bytes[..] == b".." || bytes.iter().any(|b| matches!(b, b'/' | 0))
        {
            return Err(Refusal::BadName);
        }
        Ok(Name(bytes))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its bytes, shared.
    pub fn to_bytes(&self) -> Bytes {
        self.0.clone()
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

/// The full name of an extended attribute, `user.x`: 1 to 255 bytes, no NUL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct XattrName(Bytes);

impl XattrName {
    /// Checks and takes a name.
    ///
    /// # Errors
    /// [`Refusal::XattrNameTooLong`] beyond [`MAX_XATTR_NAME`]; [`Refusal::BadName`] for an empty name or NUL.
    pub fn parse(bytes: impl Into<Bytes>) -> Result<XattrName, Refusal> {
        let bytes = bytes.into();
        if bytes.len() > MAX_XATTR_NAME {
            return Err(Refusal::XattrNameTooLong { len: bytes.len() as u64 });
        }
        if bytes.is_empty() || bytes.contains(&0) {
            return Err(Refusal::BadName);
        }
        Ok(XattrName(bytes))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its bytes, shared.
    pub fn to_bytes(&self) -> Bytes {
        self.0.clone()
    }
}
