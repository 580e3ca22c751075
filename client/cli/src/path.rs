//! Paths in the namespace of a site, as the command line takes them: `/volume/dir/file`.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;

/// An absolute path in the one namespace, with empty parts, `.` and repeated slashes gone. `..` stays: what it means
/// depends on symbolic links, which the site follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SitePath {
    bytes: Vec<u8>,
    directory: bool,
}

impl SitePath {
    /// Takes a path of the command line.
    ///
    /// # Errors
    /// It does not begin with `/`. Names that are too long are the site's to refuse.
    pub(crate) fn parse(given: OsString) -> Result<SitePath, String> {
        let given = given.into_vec();
        let shown = String::from_utf8_lossy(&given).into_owned();
        if given.first() != Some(&b'/') {
            return Err(format!("{shown:?} does not begin with `/`: paths in the site are like /dir/file"));
        }
        let mut bytes = Vec::with_capacity(given.len());
        for part in given.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".") {
            bytes.push(b'/');
            bytes.extend_from_slice(part);
        }
        let directory = given.ends_with(b"/") || given.ends_with(b"/.") || given.ends_with(b"/..");
        if bytes.is_empty() {
            bytes.push(b'/');
        }
        Ok(SitePath { bytes, directory })
    }

    /// As the client library takes it.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether it was written so that only a directory can be meant: with a slash at its end.
    pub(crate) fn must_be_directory(&self) -> bool {
        self.directory
    }

    /// The last name; `None` for `/` and for paths that end in `..`.
    pub(crate) fn name(&self) -> Option<&[u8]> {
        let name = self.bytes.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        (!name.is_empty() && name != b"..").then_some(name)
    }

    /// The path of a name in this directory.
    pub(crate) fn join(&self, name: &[u8]) -> SitePath {
        let mut bytes = self.bytes.clone();
        if bytes != b"/" {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        SitePath { bytes, directory: false }
    }
}

impl fmt::Display for SitePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.bytes))
    }
}

/// A name or path for people: what is not UTF-8 or would move a terminal's cursor is escaped.
pub(crate) fn shown(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for piece in bytes.utf8_chunks() {
        for c in piece.valid().chars() {
            if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
        }
        for byte in piece.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<SitePath, String> {
        SitePath::parse(text.into())
    }

    #[test]
    fn paths_lose_what_means_nothing() {
        for (given, kept) in [
            ("/", "/"),
            ("//", "/"),
            ("/.", "/"),
            ("/a", "/a"),
            ("//a///b/", "/a/b"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/a/../b"),
        ] {
            assert_eq!(parse(given).unwrap().to_string(), kept);
        }
    }

    #[test]
    fn what_is_no_path_is_refused_with_the_reason() {
        assert!(parse("a/b").unwrap_err().contains("begin with `/`"));
        assert!(parse("").unwrap_err().contains("begin with `/`"));
    }

    #[test]
    fn last_names_and_directories() {
        assert_eq!(parse("/a/b").unwrap().name(), Some(&b"b"[..]));
        assert_eq!(parse("/").unwrap().name(), None);
        assert_eq!(parse("/a/..").unwrap().name(), None);
        assert!(parse("/a/").unwrap().must_be_directory());
        assert!(!parse("/a").unwrap().must_be_directory());
        assert_eq!(parse("/").unwrap().join(b"x").to_string(), "/x");
        assert_eq!(parse("/a").unwrap().join(b"x").as_bytes(), b"/a/x");
    }

    #[test]
    fn names_are_shown_safely() {
        assert_eq!(shown("grün".as_bytes()), "grün");
        assert_eq!(shown(b"a\xffb\n\x1b[31m"), "a\\xffb\\n\\u{1b}[31m");
    }
}
