//! The fields of a request, taken one after the other. What the kernel sends is checked for its length and nothing
//! else: it is trusted as far as this process is.

use std::ffi::CStr;

use bytes::Bytes;

/// A request that is shorter than its kind wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooShort;

/// What is left of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn take<const N: usize>(&mut self) -> Result<[u8; N], TooShort> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(TooShort)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn u32(&mut self) -> Result<u32, TooShort> {
        self.take().map(u32::from_ne_bytes)
    }

    pub(super) fn i32(&mut self) -> Result<i32, TooShort> {
        self.take().map(i32::from_ne_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, TooShort> {
        self.take().map(u64::from_ne_bytes)
    }

    pub(super) fn i64(&mut self) -> Result<i64, TooShort> {
        self.take().map(i64::from_ne_bytes)
    }

    /// Passes over so many fields of four bytes.
    pub(super) fn skip(&mut self, words: usize) -> Result<(), TooShort> {
        self.0 = self.0.get(words * 4..).ok_or(TooShort)?;
        Ok(())
    }

    /// A string ended by NUL.
    pub(super) fn name(&mut self) -> Result<Bytes, TooShort> {
        let name = CStr::from_bytes_until_nul(self.0).map_err(|_| TooShort)?.to_bytes();
        self.0 = &self.0[name.len() + 1..];
        Ok(Bytes::copy_from_slice(name))
    }

    /// Exactly so many bytes, copied: the loop's buffer is needed for the next request.
    pub(super) fn data(&mut self, len: usize) -> Result<Bytes, TooShort> {
        let data = self.0.get(..len).ok_or(TooShort)?;
        self.0 = &self.0[len..];
        Ok(Bytes::copy_from_slice(data))
    }
}

/// What every request begins with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) opcode: u32,
    pub(super) unique: u64,
    pub(super) node: u64,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) pid: u32,
}

impl Header {
    /// A request taken apart: its header, and its fields.
    pub(super) fn parse(request: &[u8]) -> Result<(Header, Fields<'_>), TooShort> {
        let mut fields = Fields(request);
        let len = fields.u32()? as usize;
        let header = Header {
            opcode: fields.u32()?,
            unique: fields.u64()?,
            node: fields.u64()?,
            uid: fields.u32()?,
            gid: fields.u32()?,
            pid: fields.u32()?,
        };
        fields.skip(1)?;
        let rest = len.checked_sub(super::abi::IN_HEADER).and_then(|rest| fields.0.get(..rest)).ok_or(TooShort)?;
        Ok((header, Fields(rest)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_taken_apart_and_a_torn_one_refused() {
        let mut request = Vec::new();
        for word in [48u32, 13] {
            request.extend(word.to_ne_bytes());
        }
        for number in [7u64, 9] {
            request.extend(number.to_ne_bytes());
        }
        for word in [1u32, 2, 3, 0] {
            request.extend(word.to_ne_bytes());
        }
        request.extend(*b"one\0two\0");
        let (header, mut fields) = Header::parse(&request).unwrap();
        assert_eq!((header.opcode, header.unique, header.node), (13, 7, 9));
        assert_eq!((header.uid, header.gid, header.pid), (1, 2, 3));
        assert_eq!((fields.name().unwrap(), fields.name().unwrap()), ("one".into(), "two".into()));
        assert_eq!(fields.name(), Err(TooShort));
        assert_eq!(fields.u32(), Err(TooShort));
        for len in 0..request.len() {
            assert!(Header::parse(&request[..len]).is_err(), "{len} bytes are no request");
        }
    }
}
