//! What is mounted where, as `/proc/self/mountinfo` says.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// `major:minor`.
    pub(crate) device: String,
    /// Where.
    pub(crate) path: PathBuf,
    /// The file system's type.
    pub(crate) kind: String,
}

/// All mounts, later ones above earlier ones; none if they can't be read.
pub(crate) fn read() -> Vec<Mount> {
    match std::fs::read("/proc/self/mountinfo") {
        Ok(text) => text.split(|byte| *byte == b'\n').filter_map(parse).collect(),
        Err(error) => {
            tracing::debug!(%error, "read /proc/self/mountinfo");
            Vec::new()
        }
    }
}

/// `36 35 98:0 /root /path opts optional... - kind source options`
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = String::from_utf8(fields.nth(2)?.to_vec()).ok()?;
    let path = PathBuf::from(OsString::from_vec(unescape(fields.nth(1)?)));
    let kind = String::from_utf8(fields.skip_while(|field| *field != b"-").nth(1)?.to_vec()).ok()?;
    Some(Mount { device, path, kind })
}

/// Spaces, tabs, newlines and backslashes are written as `\` and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let digits = (first == b'\\').then(|| after.get(..3)).flatten();
        let value = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match value {
            Some(byte) => {
                out.push(byte);
                rest = &after[3..];
            }
            None => {
                out.push(first);
                rest = after;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_parsed_with_its_escapes() {
        let line = br"36 35 0:45 / /mnt/with\040space rw,relatime shared:1 - fuse.weft weft rw,user_id=0";
        let mount = parse(line).unwrap();
        assert_eq!(mount, Mount { device: "0:45".into(), path: "/mnt/with space".into(), kind: "fuse.weft".into() });
        assert_eq!(unescape(br"tail\04"), br"tail\04");
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"36 35 0:45 / /mnt rw"), None);
    }
}
