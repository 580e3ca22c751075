//! FUSE through `/dev/fuse`: reads the kernel's requests, makes [`crate::request`]s of them and writes the answers back.
//! Alone knows how the kernel speaks, so that another transport can take its place.
//!
//! It is a transport of our own and no library's since programs need what those leave out: a signal frees a call that
//! hangs ([`calls`]), files without a name (`O_TMPFILE`), the time of birth (`statx`), access lists with the umask left to
//! the servers, and word of who may not keep set-user-id. [`fields`] and [`answers`] are the layout, [`serve`] one arm per
//! kind of request, [`session`] the loops.

mod abi;
mod answers;
mod attach;
mod calls;
mod fields;
mod serve;
mod session;

pub(crate) use attach::{AttachOptions, attach};
pub(crate) use session::Session;
