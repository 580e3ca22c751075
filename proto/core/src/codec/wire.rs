//! The reader, the writer, and [`Code`]: what has bytes of its own.

use bytes::{BufMut, Bytes, BytesMut};

/// Bytes that don't decode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Written by another, probably newer, version.
    #[error("format version {found} is unknown: this program reads {known}")]
    Version {
        /// The version byte.
        found: u8,
        /// What this code knows.
        known: u8,
    },
    /// The bytes end within a value.
    #[error("the bytes end too early")]
    Short,
    /// Bytes are left over after the value.
    #[error("{0} bytes too many")]
    Trailing(usize),
    /// A tag stands for nothing.
    #[error("{tag} is no tag of {of}")]
    Tag {
        /// Of which type.
        of: &'static str,
        /// The tag.
        tag: u8,
    },
    /// A value breaks a rule of its type.
    #[error("not a valid {0}")]
    Invalid(&'static str),
}

/// Appends to bytes being encoded.
#[derive(Default)]
pub(crate) struct Writer(BytesMut);

impl Writer {
    /// Nothing written yet.
    pub(crate) fn new() -> Writer {
        Writer(BytesMut::with_capacity(128))
    }

    /// Appends one byte.
    pub(crate) fn u8(&mut self, value: u8) {
        self.0.put_u8(value);
    }

    /// Appends bytes as they are.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.0.put_slice(bytes);
    }

    /// Appends a count.
    pub(crate) fn count(&mut self, count: usize) {
        let count = u32::try_from(count).expect("limits keep every list and byte string far below 4 GiB");
        self.0.put_u32(count);
    }

    /// What was written.
    pub(crate) fn finish(self) -> Bytes {
        self.0.freeze()
    }
}

/// Takes values from the front of bytes.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// At the first byte.
    pub(crate) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader(bytes)
    }

    /// Takes one byte.
    ///
    /// # Errors
    /// [`CodecError::Short`].
    pub(crate) fn u8(&mut self) -> Result<u8, CodecError> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    /// The next byte, left where it is.
    pub(crate) fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// Takes `N` bytes.
    ///
    /// # Errors
    /// [`CodecError::Short`].
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(CodecError::Short)?;
        self.0 = rest;
        Ok(*head)
    }

    /// Takes `len` bytes.
    ///
    /// # Errors
    /// [`CodecError::Short`].
    pub(crate) fn raw(&mut self, len: usize) -> Result<&'a [u8], CodecError> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(CodecError::Short)?;
        self.0 = rest;
        Ok(head)
    }

    /// Takes a count. Every counted item has at least one byte, so a count above the bytes left is refused here,
    /// before anything is reserved for it.
    ///
    /// # Errors
    /// [`CodecError::Short`].
    pub(crate) fn count(&mut self) -> Result<usize, CodecError> {
        let count = u32::from_be_bytes(self.array()?) as usize;
        if count > self.0.len() { Err(CodecError::Short) } else { Ok(count) }
    }

    /// Checks that nothing is left.
    ///
    /// # Errors
    /// [`CodecError::Trailing`].
    pub(crate) fn end(&self) -> Result<(), CodecError> {
        if self.0.is_empty() { Ok(()) } else { Err(CodecError::Trailing(self.0.len())) }
    }
}

/// What has bytes of its own: at least one, so that counts bound memory.
pub(crate) trait Code: Sized {
    /// Appends the value.
    fn put(&self, out: &mut Writer);

    /// Takes a value.
    ///
    /// # Errors
    /// [`CodecError`] for bytes that [`Code::put`] does not write.
    fn take(from: &mut Reader<'_>) -> Result<Self, CodecError>;

    /// Any value that the dice give.
    #[cfg(test)]
    fn any(dice: &mut super::tests::Dice) -> Self;

    /// At least one value of each variant.
    #[cfg(test)]
    fn each(dice: &mut super::tests::Dice) -> Vec<Self> {
        vec![Self::any(dice)]
    }
}

macro_rules! code_int {
    ($($int:ty),*) => {$(
        impl Code for $int {
            fn put(&self, out: &mut Writer) {
                out.raw(&self.to_be_bytes());
            }

            fn take(from: &mut Reader<'_>) -> Result<Self, CodecError> {
                Ok(<$int>::from_be_bytes(from.array()?))
            }

            #[cfg(test)]
            fn any(dice: &mut super::tests::Dice) -> Self {
                dice.number() as $int
            }
        }
    )*};
}

code_int!(u8, u16, u32, u64, i64);

impl Code for bool {
    fn put(&self, out: &mut Writer) {
        out.u8(u8::from(*self));
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, CodecError> {
        match from.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            tag => Err(CodecError::Tag { of: "bool", tag }),
        }
    }

    #[cfg(test)]
    fn any(dice: &mut super::tests::Dice) -> Self {
        dice.below(2) == 1
    }
}

impl Code for Bytes {
    fn put(&self, out: &mut Writer) {
        out.count(self.len());
        out.raw(self);
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, CodecError> {
        let len = from.count()?;
        Ok(Bytes::copy_from_slice(from.raw(len)?))
    }

    #[cfg(test)]
    fn any(dice: &mut super::tests::Dice) -> Self {
        dice.bytes(12)
    }
}

impl Code for String {
    fn put(&self, out: &mut Writer) {
        out.count(self.len());
        out.raw(self.as_bytes());
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, CodecError> {
        let len = from.count()?;
        let text = std::str::from_utf8(from.raw(len)?).map_err(|_| CodecError::Invalid("text"))?;
        Ok(text.to_owned())
    }

    #[cfg(test)]
    fn any(dice: &mut super::tests::Dice) -> Self {
        format!("text {}", dice.below(1000))
    }
}

impl<T: Code> Code for Option<T> {
    fn put(&self, out: &mut Writer) {
        match self {
            None => out.u8(0),
            Some(value) => {
                out.u8(1);
                value.put(out);
            }
        }
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(if bool::take(from)? { Some(T::take(from)?) } else { None })
    }

    #[cfg(test)]
    fn any(dice: &mut super::tests::Dice) -> Self {
        (dice.below(2) == 1).then(|| T::any(dice))
    }
}

/// The bytes of what it holds.
impl<T: Code> Code for Box<T> {
    fn put(&self, out: &mut Writer) {
        (**self).put(out);
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Box::new(T::take(from)?))
    }

    #[cfg(test)]
    fn any(dice: &mut super::tests::Dice) -> Self {
        Box::new(T::any(dice))
    }
}

impl<T: Code> Code for Vec<T> {
    fn put(&self, out: &mut Writer) {
        out.count(self.len());
        for item in self {
            item.put(out);
        }
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, CodecError> {
        let count = from.count()?;
        let mut items = Vec::with_capacity(count.min(1024));
        for _ in 0..count {
            items.push(T::take(from)?);
        }
        Ok(items)
    }

    #[cfg(test)]
    fn any(dice: &mut super::tests::Dice) -> Self {
        (0..dice.below(3)).map(|_| T::any(dice)).collect()
    }
}

impl<A: Code, B: Code> Code for (A, B) {
    fn put(&self, out: &mut Writer) {
        self.0.put(out);
        self.1.put(out);
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok((A::take(from)?, B::take(from)?))
    }

    #[cfg(test)]
    fn any(dice: &mut super::tests::Dice) -> Self {
        (A::any(dice), B::any(dice))
    }
}

/// Newtypes: the bytes of what they hold.
macro_rules! code_new {
    ($($name:ident),* $(,)?) => {$(
        impl $crate::codec::wire::Code for $name {
            fn put(&self, out: &mut $crate::codec::wire::Writer) {
                self.0.put(out);
            }

            fn take(
                from: &mut $crate::codec::wire::Reader<'_>,
            ) -> Result<Self, $crate::codec::wire::CodecError> {
                Ok($name($crate::codec::wire::Code::take(from)?))
            }

            #[cfg(test)]
            fn any(dice: &mut $crate::codec::tests::Dice) -> Self {
                $name($crate::codec::wire::Code::any(dice))
            }
        }
    )*};
}

/// Structs: their fields in the order given here, which is the format.
macro_rules! code_struct {
    ($name:ident { $($field:ident),* $(,)? }) => {
        impl $crate::codec::wire::Code for $name {
            fn put(&self, out: &mut $crate::codec::wire::Writer) {
                let $name { $($field),* } = self;
                $( $field.put(out); )*
            }

            fn take(
                from: &mut $crate::codec::wire::Reader<'_>,
            ) -> Result<Self, $crate::codec::wire::CodecError> {
                $( let $field = $crate::codec::wire::Code::take(from)?; )*
                Ok($name { $($field),* })
            }

            #[cfg(test)]
            fn any(dice: &mut $crate::codec::tests::Dice) -> Self {
                $name { $($field: $crate::codec::wire::Code::any(dice)),* }
            }
        }
    };
}

/// Enums: the tag given here, then the fields.
macro_rules! code_enum {
    ($name:ident {
        $( $tag:literal => $variant:ident $( { $($field:ident),* $(,)? } )? $( ( $($item:ident),* ) )? ),* $(,)?
    }) => {
        impl $crate::codec::wire::Code for $name {
            fn put(&self, out: &mut $crate::codec::wire::Writer) {
                match self {
                    $( $name::$variant $( { $($field),* } )? $( ( $($item),* ) )? => {
                        out.u8($tag);
                        $( $( $field.put(out); )* )?
                        $( $( $item.put(out); )* )?
                    } )*
                }
            }

            fn take(
                from: &mut $crate::codec::wire::Reader<'_>,
            ) -> Result<Self, $crate::codec::wire::CodecError> {
                match from.u8()? {
                    $( $tag => {
                        $( $( let $field = $crate::codec::wire::Code::take(from)?; )* )?
                        $( $( let $item = $crate::codec::wire::Code::take(from)?; )* )?
                        Ok($name::$variant $( { $($field),* } )? $( ( $($item),* ) )?)
                    } )*
                    tag => Err($crate::codec::wire::CodecError::Tag { of: stringify!($name), tag }),
                }
            }

            #[cfg(test)]
            fn any(dice: &mut $crate::codec::tests::Dice) -> Self {
                let mut each = <$name as $crate::codec::wire::Code>::each(dice);
                let at = dice.below(each.len() as u64) as usize;
                each.swap_remove(at)
            }

            #[cfg(test)]
            #[allow(unused_variables, reason = "an enum without fields rolls no dice")]
            fn each(dice: &mut $crate::codec::tests::Dice) -> Vec<Self> {
                vec![ $( {
                    $( $( let $field = $crate::codec::wire::Code::any(dice); )* )?
                    $( $( let $item = $crate::codec::wire::Code::any(dice); )* )?
                    $name::$variant $( { $($field),* } )? $( ( $($item),* ) )?
                } ),* ]
            }
        }
    };
}

pub(crate) use {code_enum, code_new, code_struct};
