//! `weft cluster init` and `weft cluster join`.

use std::path::PathBuf;

use crate::failure::Failure;
use crate::local_node;
use crate::output;

/// Makes a new site.
pub(crate) async fn init(config: PathBuf, name: String, groups: u32, replication: u8) -> Result<(), Failure> {
    let settings = local_node::load(&config)?;
    let identity = local_node::init(&settings, &name, groups, replication).await?;
    let (config, node) = (config.display(), identity.node);
    output::line(format!("site {name} made, with node {node} in {}", settings.data.display()))?;
    output::line(format!("start it:        weft node --config {config}"))?;
    output::line(format!("add other nodes: weft cluster join --config FILE --peer {}", reached(&settings)))?;
    if replication > 1 {
        output::line(format!(
            "files keep {replication} copies: the first can be written once two nodes or more are running"
        ))?;
    }
    Ok(())
}

/// Joins a running site.
pub(crate) async fn join(config: PathBuf, peer: String) -> Result<(), Failure> {
    let settings = local_node::load(&config)?;
    let identity = local_node::join(&settings, &peer).await?;
    let (site, node) = (&identity.site_name, identity.node);
    output::line(format!("joined site {site} as node {node}, with data in {}", settings.data.display()))?;
    output::line(format!("start it: weft node --config {}", config.display()))
}

fn reached(settings: &weft_node::settings::Settings) -> String {
    settings.advertised(&settings.listen)
}
