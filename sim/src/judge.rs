//! The judgement of a site once nothing breaks any more.

use std::time::Duration;

use crate::laws;
use crate::run::Violation;
use crate::state::NodeState;
use crate::workload::Shared;

/// Simulated time the fabric has to be whole again after the last fault.
pub const RECOVERY: Duration = Duration::from_secs(60);
/// Simulated time for the judges.
pub const JUDGEMENT: Duration = Duration::from_secs(280);

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// After the faults: everything is served within [`RECOVERY`], is what it should be, the replicas agree, and every
/// count is right.
///
/// # Errors
/// None: what it finds is remembered as the broken law.
pub async fn judge(until: Duration, clients: u64, shared: Shared, nodes: Vec<NodeState>) -> Outcome {
    tokio::time::sleep(until).await;
    let served = tokio::time::timeout(RECOVERY, async {
        while shared.borrow().finished < clients {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        loop {
            match laws::readable::check(&shared).await {
                Ok(verdict) => return verdict,
                Err(error) => tracing::info!(%error, "not served yet"),
            }
        }
    });
    let verdict = match served.await {
        Ok(Ok(())) => agree(&nodes).await.and_then(|()| at_rest(&shared, &nodes)),
        Ok(Err(violation)) => Err(violation),
        Err(_) => {
            let what = format!("not everything was served within {} s after the last fault", RECOVERY.as_secs());
            Err(Violation { law: "all is served again in time", what })
        }
    };
    if let Err(violation) = verdict {
        shared.borrow_mut().broken.get_or_insert(violation);
    }
    Ok(())
}

/// What nodes have in common is the same on all of them.
async fn agree(nodes: &[NodeState]) -> Result<(), Violation> {
    laws::whole::check(nodes).await?;
    laws::replicas::check(nodes).await?;
    laws::copies::check(nodes).await?;
    laws::gone::check(nodes).await?;
    laws::fsck::check().await
}

/// What can be told without asking anybody.
fn at_rest(shared: &Shared, nodes: &[NodeState]) -> Result<(), Violation> {
    laws::counts::check(nodes)?;
    let mut memory = shared.borrow_mut();
    let mut undecided = u64::from(!laws::namespace::check(&memory.history)?);
    let mut contended = memory.history.len() as u64;
    for arena in &memory.arenas {
        undecided += u64::from(!laws::namespace::check(&arena.history)?);
        contended += arena.history.len() as u64;
    }
    memory.faults.contended += contended;
    memory.faults.undecided += undecided;
    Ok(())
}
