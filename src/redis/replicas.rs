//! Whether replicas have what a cell has granted.

use super::cell::{Identity, accepted};
use super::client::{Call, Link};
use super::fault::Fault;
use super::keys::CellKeys;
use super::scripts::Script;

/// How many replicas have every grant that was made under `identity` before this call: as many as WAIT
/// counts within `wait_ms`, or `wanted` and more.
///
/// WAIT counts for the writes of its own connection alone, and as the first command of a connection for none:
/// so a write goes before it on this `link`, which must not have been replaced in between.
pub async fn confirm(
    link: &mut Link,
    keys: &CellKeys,
    identity: &Identity,
    wanted: u32,
    wait_ms: u64,
) -> Result<u32, Fault> {
    let mut call = Call::new(Script::CellConfirm, [keys.meta()].into_iter());
    identity.put(&mut call);
    let [before, counted, after] = link.call_around_wait(&call, wanted, wait_ms).await?;
    accepted(before)?;
    accepted(after)?;
    match counted {
        redis::Value::Int(count) => Ok(u32::try_from(count).unwrap_or(0)),
        _ => Err(Fault::reply("WAIT gave no number")),
    }
}
