//! The claim about background saves.

use super::verdict::{Figures, Ruling};
use crate::bench::{Unit, text::number};

/// A save keeps so many requests waiting, or more, that each take what they usually take: not
/// lightweight.
const REQUESTS: f64 = 20.0;

/// What a request over a local socket takes at least, in nanoseconds.
const SOCKET_NS: f64 = 10_000.0;

/// What a save cost a server.
#[derive(Clone, Debug, PartialEq)]
pub struct Save {
    /// Which server.
    pub server: String,
    /// Its memory.
    pub rss_bytes: f64,
    /// How long the fork kept it from answering, by its own account: a median.
    pub stall_ns: f64,
    /// The same by the tracer's.
    pub traced_stall_ns: Option<f64>,
    /// What a request took while nothing was saved: a median.
    pub request_ns: f64,
    /// What one request took at most while it saved.
    pub slowest_ns: f64,
    /// What was copied because the child still had the old pages, where that is known.
    pub cow_bytes: Option<f64>,
    /// The same by the tracer's account.
    pub traced_cow_bytes: Option<f64>,
}

/// 12: for a background save like Redis's, fork is not lightweight.
pub fn not_lightweight(save: &Save) -> Ruling {
    let (ns, bytes) = (|ns| number(ns, Unit::Ns), |bytes| number(bytes, Unit::Bytes));
    // A server in this process takes next to no time for one: over a socket it is this at least.
    let requests = save.stall_ns / save.request_ns.max(SOCKET_NS);
    let mut figures = Figures::from([
        ("rss_bytes", save.rss_bytes),
        ("stall_ns", save.stall_ns),
        ("request_p50_ns", save.request_ns),
        ("stall_in_requests", requests),
        ("slowest_request_while_saving_ns", save.slowest_ns),
    ]);
    let mut evidence = format!(
        "{} with {}: frozen {} by a save's fork",
        save.server,
        bytes(save.rss_bytes),
        ns(save.stall_ns)
    );
    if let Some(traced) = save.traced_stall_ns {
        figures.add("traced_fork_ns", traced);
        evidence.push_str(&format!(" (traced: {})", ns(traced)));
    }
    evidence.push_str(&format!(
        ", the time of {} requests; the slowest took {}",
        number(requests.round(), Unit::Count),
        ns(save.slowest_ns)
    ));
    if let Some(cow) = save.cow_bytes {
        figures.add("cow_bytes", cow);
        evidence.push_str(&format!("; {} copied", bytes(cow)));
    }
    if let Some(traced) = save.traced_cow_bytes {
        figures.add("traced_cow_bytes", traced);
        evidence.push_str(&format!(" (traced: {})", bytes(traced)));
    }
    Ruling::plain(requests >= REQUESTS, figures, evidence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::claims::verdict::Verdict;

    #[test]
    fn a_fork_is_lightweight_or_not() {
        for (stall_ns, verdict) in [(399_000.0, Verdict::Not), (400_000.0, Verdict::Holds)] {
            let save = Save {
                server: "redis-server 7.0.15".into(),
                rss_bytes: 3e8,
                stall_ns,
                traced_stall_ns: Some(stall_ns),
                request_ns: 20_000.0,
                slowest_ns: stall_ns,
                cow_bytes: Some(1e7),
                traced_cow_bytes: None,
            };
            let ruling = not_lightweight(&save);
            assert_eq!(ruling.verdict, verdict, "{ruling:?}");
            assert!(ruling.figures.len() >= 2);
        }
    }
}
