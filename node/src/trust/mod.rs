//! Whom a site trusts, and how it comes to: the authority that signs, the tokens with which nodes join, the users, the
//! door in front of every call.
//!
//! What always holds. A site has an authority from its first moment or none for ever. Its key lies in the records of the
//! system group and nowhere else: any leader can sign, and nobody outside the nodes with metadata can. Private keys of
//! nodes and users never leave the machine where they were made. A node learns by heartbeats whom to believe and whom
//! not to, and takes that up without a restart.

pub mod audit;
pub mod authority;
pub mod capability;
pub mod desk;
pub mod found;
pub mod gate;
pub mod keeper;
pub mod renew;
pub mod token;

pub use audit::Audit;
pub use keeper::Keeper;
