//! Writes a file into a site and reads it back:
//!
//! ```text
//! weft dev &
//! cargo run -p weft-client --example hello -- 127.0.0.1:7400 /hello.txt
//! ```

use bytes::Bytes;
use weft_client::{Client, ClientParts, ConnectOptions, Cred, RenameMode};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(addr), Some(path)) = (args.next(), args.next()) else {
        return Err("usage: hello HOST:PORT /PATH".into());
    };
    let client = Client::connect(ConnectOptions::new([addr]), ClientParts::real()).await?;
    let read = hello(&client, path.as_bytes()).await?;
    client.close().await?;
    use std::io::Write;
    writeln!(std::io::stdout(), "{path} holds: {}", String::from_utf8_lossy(&read))?;
    Ok(())
}

/// The usual way to put a file in place: write it under another name, make it durable, rename it. Whoever looks at
/// `path` sees the old file or the new one, whole.
pub async fn hello(client: &Client, path: &[u8]) -> weft_client::Result<Bytes> {
    let cred = Cred::root();
    let to = client.resolve_parent(&cred, path).await?;
    let temporary = weft_client::Name::parse(format!(".{}.new", to.name))?;
    let (file, _attr, fresh) = to.volume.create_file(&cred, to.parent, temporary.clone(), 0o644, false).await?;
    if !fresh {
        file.truncate(0).await?;
    }
    file.write_at(0, Bytes::from_static(b"hello, ")).await?;
    file.append(Bytes::from_static(b"world")).await?;
    file.close().await?;
    to.volume.rename(&cred, to.parent, temporary, to.parent, to.name, RenameMode::Replace).await?;

    let found = client.resolve_follow(&cred, path).await?;
    let file = found.volume.open(&cred, found.found.ino, true, false).await?;
    let read = file.read_at(0, found.found.size as usize).await?;
    file.close().await?;
    Ok(read)
}
