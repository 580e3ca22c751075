//! The mount: kernel requests become calls of the client library, and its answers the kernel's.
#![allow(dead_code)]
mod dev_fuse;
pub mod request;
