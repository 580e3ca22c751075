//! The network seam over turmoil's simulated TCP.

use std::io;

use weft_proto::link::{Accept, Dial, Link, Listen};

/// Connections through turmoil. Addresses are `host:port` with turmoil's host names.
pub struct SimNet;

#[async_trait::async_trait]
impl Dial for SimNet {
    async fn dial(&self, addr: &str) -> io::Result<Link> {
        Ok(Link::new(turmoil::net::TcpStream::connect(addr).await?))
    }
}

struct SimAccept(turmoil::net::TcpListener);

#[async_trait::async_trait]
impl Accept for SimAccept {
    async fn accept(&mut self) -> io::Result<Link> {
        Ok(Link::new(self.0.accept().await?.0))
    }
    fn local_addr(&self) -> io::Result<String> {
        Ok(self.0.local_addr()?.to_string())
    }
}

#[async_trait::async_trait]
impl Listen for SimNet {
    async fn listen(&self, addr: &str) -> io::Result<Box<dyn Accept>> {
        Ok(Box::new(SimAccept(turmoil::net::TcpListener::bind(addr).await?)))
    }
}
