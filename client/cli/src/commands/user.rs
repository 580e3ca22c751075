//! `weft user add|list|revoke|whoami`.

use std::path::PathBuf;

use serde::Serialize;
use weft_client::{NewUser, Timestamp, User, Whoami};

use crate::args::{ConnectArgs, UserCommand};
use crate::connect::{close, connect};
use crate::failure::{Doing, Failure};
use crate::table::{Align, Table};
use crate::{humane, output};

/// A user as `--json` shows it.
#[derive(Serialize)]
struct Shown {
    name: String,
    id: u64,
    groups: Vec<String>,
    roles: Vec<String>,
    tenant: u32,
    uids: String,
    gids: String,
    /// Seconds since 1970.
    until: i64,
    revoked: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    credential: Option<PathBuf>,
}

impl From<&User> for Shown {
    fn from(user: &User) -> Shown {
        let principal = &user.principal;
        Shown {
            name: principal.name.clone(),
            id: principal.id.0,
            groups: principal.groups.clone(),
            roles: principal.roles.clone(),
            tenant: principal.tenant.0,
            uids: principal.uids.to_string(),
            gids: principal.gids.to_string(),
            until: user.until,
            revoked: user.revoked,
            credential: None,
        }
    }
}

/// Does one of them.
pub(crate) async fn run(to: &ConnectArgs, command: UserCommand) -> Result<(), Failure> {
    match command {
        UserCommand::Add { name, groups, roles, tenant, uids, gids, days, out, json } => {
            let ids = |text: &str| text.parse().map_err(|why: String| Failure::usage(why));
            let gids = ids(gids.as_deref().unwrap_or(&uids))?;
            let new = NewUser { name, groups, roles, tenant, uids: ids(&uids)?, gids, days };
            add(to, new, out, json).await
        }
        UserCommand::Renew { name, days, out } => renew(to, &name, days, out).await,
        UserCommand::List { json } => list(to, json).await,
        UserCommand::Revoke { name } => revoke(to, &name).await,
        UserCommand::Whoami { json } => whoami(to, json).await,
    }
}

async fn add(to: &ConnectArgs, new: NewUser, out: Option<PathBuf>, json: bool) -> Result<(), Failure> {
    let path = out.unwrap_or_else(|| PathBuf::from(format!("{}.credential", new.name)));
    // Before the user is made: a credential that can't be written is lost.
    if path.symlink_metadata().is_ok() {
        return Err(Failure::new(format!("{} is there already", path.display())).hint("name another file with --out"));
    }
    let client = connect(to).await?;
    let name = new.name.clone();
    let (user, credential) = client.add_user(new).await.doing(format!("make user {name}"))?;
    if let Err(error) = credential.store(&path) {
        let lost = Failure::new(format!("user {name} was made, but its credential is lost: {error}"));
        return Err(lost.hint(format!("`weft user revoke {name}`, and make it again with another --out")));
    }
    if json {
        output::json(&Shown { credential: Some(path), ..Shown::from(&user) })?;
    } else {
        output::line(format!("user {name} made; the credential is {}", path.display()))?;
        if user.principal.uids.0.is_empty() {
            output::note("it speaks for no uid: whoever asks as root is nobody, others are refused (--uids)");
        }
    }
    close(&client).await
}

async fn renew(to: &ConnectArgs, name: &str, days: u32, out: Option<PathBuf>) -> Result<(), Failure> {
    let path = out.unwrap_or_else(|| PathBuf::from(format!("{name}.credential")));
    let client = connect(to).await?;
    let (_, credential) = client.renew_user(name, days).await.doing(format!("renew user {name}"))?;
    credential.store(&path).map_err(|error| {
        Failure::new(error.to_string()).hint("name another file with --out; the former credential is still good")
    })?;
    output::line(format!("the new credential of user {name} is {}", path.display()))?;
    close(&client).await
}

async fn list(to: &ConnectArgs, json: bool) -> Result<(), Failure> {
    let client = connect(to).await?;
    let users: Vec<Shown> = client.users().await.doing("list the users")?.iter().map(Shown::from).collect();
    if json {
        output::json(&users)?;
    } else {
        use Align::{Left, Right};
        let mut table = Table::new([
            ("NAME", Left),
            ("NUMBER", Right),
            ("ROLES", Left),
            ("GROUPS", Left),
            ("TENANT", Right),
            ("UIDS", Left),
            ("GIDS", Left),
            ("UNTIL", Left),
        ]);
        for user in &users {
            let until =
                if user.revoked { "revoked".into() } else { humane::time(Timestamp { secs: user.until, nanos: 0 }) };
            table.row([
                user.name.clone(),
                user.id.to_string(),
                user.roles.join(","),
                user.groups.join(","),
                user.tenant.to_string(),
                user.uids.clone(),
                user.gids.clone(),
                until,
            ]);
        }
        output::line(table.render().trim_end())?;
    }
    close(&client).await
}

async fn revoke(to: &ConnectArgs, name: &str) -> Result<(), Failure> {
    let client = connect(to).await?;
    client.revoke_user(name).await.doing(format!("revoke user {name}"))?;
    output::line(format!("user {name} is refused from now on; every node knows within a second"))?;
    close(&client).await
}

async fn whoami(to: &ConnectArgs, json: bool) -> Result<(), Failure> {
    let client = connect(to).await?;
    match client.whoami().await.doing("ask who this is")? {
        Whoami::Plain if json => output::json(&serde_json::json!({ "plain": true }))?,
        Whoami::Plain => output::line("anybody: this site is in plain text")?,
        Whoami::User(principal) => {
            let user = User { principal, until: 0, revoked: false };
            let shown = Shown::from(&user);
            if json {
                output::json(&shown)?;
            } else {
                output::line(format!("user {} (number {})", shown.name, shown.id))?;
                for (what, list) in [("groups", shown.groups.join(",")), ("roles", shown.roles.join(","))] {
                    if !list.is_empty() {
                        output::line(format!("{what}: {list}"))?;
                    }
                }
                output::line(format!("speaks for uids {}, gids {}", none(&shown.uids), none(&shown.gids)))?;
            }
        }
    }
    close(&client).await
}

fn none(text: &str) -> &str {
    if text.is_empty() { "none" } else { text }
}
