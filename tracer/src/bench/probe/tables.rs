//! Page tables of parents and their fork children.

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    child::{self, Memory, Pipe},
    proc,
};

/// A parent after the other, each with so many MiB written.
pub(super) fn probe(mebibytes: &[u64]) -> Result<Value> {
    let mut sizes = Vec::new();
    let order = Pipe::new()?;
    for &size in mebibytes {
        let _memory = Memory::written(usize::try_from(size << 20)?)?;
        let pid = child::fork(|| {
            order.hear();
        })?;
        let child = pid.to_string();
        let found = json!({
            "pid": pid,
            "parent_rss_bytes": proc::status("self", "VmRSS")?,
            "parent_page_table_bytes": proc::status("self", "VmPTE")?,
            "child_page_table_bytes": proc::status(&child, "VmPTE")?,
        });
        order.tell(0);
        child::collect(pid)?;
        sizes.push(found);
    }
    Ok(json!({ "sizes": sizes }))
}
