//! What forkscope found, as one page that needs nothing else: no network, no server.
//!
//! A page adds nothing to what it is made from. Its figures are those of `report --format json` and
//! of the `profile` record, which are in it whole as JSON; a figure that is shown is one of those.
//! Everything that a traced process controls passes [`document::text`], or is JSON or CSV that has
//! been made harmless, before it is in the page.

pub mod document;
pub mod format;
pub mod gather;
mod icicle;
pub mod json;
mod plots;
mod sections;
mod tables;
#[cfg(test)]
mod tests;

pub use self::gather::{Found, Gather};

/// A page is smaller than this, bytes, whatever was recorded.
pub const MOST_BYTES: usize = 1_000_000;

/// The page; where there is more than finds room, rows are left out of tables and the page says
/// how many.
#[must_use]
pub fn render(found: &Found) -> String {
    let mut rows = 200;
    loop {
        let page = sections::page(found, rows);
        if page.len() < MOST_BYTES || rows < 3 {
            return page;
        }
        rows /= 2;
    }
}
