//! Acknowledged data is readable and equal: after the faults stopped, a client that knows nothing reads every name and
//! finds what the last acknowledgement said, or one of the possibilities an unknown outcome left.

use std::collections::BTreeSet;

use weft_client::{Cred, Error};

use crate::run::Violation;
use crate::workload::{self, Shared};

const LAW: &str = "acknowledged data is readable and equal";

/// Reads everything back. `Err` in the inner result: the law is broken.
///
/// # Errors
/// The fabric did not answer in time.
pub async fn check(shared: &Shared) -> Result<Result<(), Violation>, Error> {
    let (client, volume) = workload::connect().await?;
    let dir = workload::directory(&volume, workload::DIRECTORY).await?;
    let cred = Cred::root();
    let expected = shared.borrow().names.clone();
    let places = shared.borrow().places.clone();
    let place = |name: &str| places.get(&workload::worker_of(name)).copied();
    for (name, possible) in &expected {
        let found = workload::read_name(&volume, &cred, place(name).unwrap_or(dir), name).await?;
        if !possible.contains(&found) {
            let what = format!("{name}: {}", workload::differs(possible, &found));
            return Ok(Err(Violation { law: LAW, what }));
        }
        shared.borrow_mut().faults.reads += 1;
    }
    let mut listed = BTreeSet::new();
    let mut after = None;
    loop {
        let page = volume.readdir(&cred, dir, after.clone(), 100, false).await?;
        listed.extend(page.entries.iter().map(|entry| entry.name.to_string()));
        after = page.entries.last().map(|entry| entry.name.clone()).or(after);
        if page.end {
            break;
        }
    }
    client.close().await?;
    for name in &listed {
        if !expected.get(name).is_some_and(|possible| possible.iter().any(Option::is_some)) {
            return Ok(Err(Violation { law: LAW, what: format!("{name} is listed though it is not there") }));
        }
    }
    for (name, possible) in &expected {
        if place(name).is_none() && possible.iter().all(Option::is_some) && !listed.contains(name) {
            return Ok(Err(Violation { law: LAW, what: format!("{name} is not listed though it is there") }));
        }
    }
    Ok(Ok(()))
}
