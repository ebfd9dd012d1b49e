//! A ledger of copy-on-write as people get it.

use forkscope_common::cow::{
    BUCKETS, CHILD, CURVE, ENOUGH_TIMED, Fault, Ledger as Raw, PARENT, ROLES, Role, curve_edge,
    end, lowest_of, window,
};

use super::Clock;
use crate::record::{Address, Comm, CowFault, CowLatency, CowSide, CurvePoint, Ledger, PAGE};

fn side(role: &Role, pid: u32, comm: Comm, start_time: u64) -> CowSide {
    let copied = role.copied();
    // The kernel side cannot count that far; whoever writes its records could.
    CowSide {
        pid,
        comm,
        start_time,
        faults: faults(role),
        copied,
        reused: role.reused,
        copied_bytes: copied.saturating_mul(PAGE),
        stall_ns: stall(role),
    }
}

fn faults(role: &Role) -> u64 {
    role.reused.saturating_add(role.copied())
}

/// Time in faults; where some were timed, those stand for all.
fn stall(role: &Role) -> Option<u64> {
    let faults = faults(role);
    if faults == 0 {
        return Some(0);
    }
    if role.timed == 0 {
        return None;
    }
    let all = u128::from(role.timed_ns) * u128::from(faults) / u128::from(role.timed);
    u64::try_from(all).ok()
}

/// The record of a ledger; `header.at` is when it ended or was looked at.
pub fn record(ledger: &Raw, clock: Clock) -> Ledger {
    let [parent, child] = &ledger.roles;
    let (parent_comm, child_comm) = (Comm(ledger.parent_comm), Comm(ledger.child_comm));
    let duration_ns = ledger.header.at.saturating_sub(ledger.opened_at);
    Ledger {
        time: clock.time(ledger.header.at),
        parent: side(parent, ledger.parent_pid, parent_comm, ledger.parent_start),
        child: side(child, ledger.child_pid, child_comm, ledger.child_start),
        end: match ledger.end {
            end::EXEC => "exec",
            end::EXIT => "exit",
            end::PARENT_EXIT => "parent_exit",
            _ => "open",
        },
        duration_ns,
        overlapping: ledger.overlapping != 0,
        carried_over: ledger.carried_over,
        huge_splits: parent.huge_splits.saturating_add(child.huge_splits),
        hugetlb_copied_bytes: Some(parent.hugetlb_bytes.saturating_add(child.hugetlb_bytes))
            .filter(|&n| n > 0),
        latency: latency(ledger),
        curve: curve(&ledger.roles, duration_ns),
        lossy: parent_comm.lossy() || child_comm.lossy(),
    }
}

/// The intervals up to the last with a copy; the last of all ends where the ledger does.
fn curve(roles: &[Role; ROLES], duration_ns: u64) -> Vec<CurvePoint> {
    let copies = |index: usize| roles.iter().any(|role| role.curve[index] > 0);
    let used = (0..CURVE).rev().find(|&index| copies(index)).map_or(0, |last| last + 1);
    (0..used)
        .map(|index| CurvePoint {
            until_ns: curve_edge(index).min(duration_ns.max(curve_edge(CURVE - 2))),
            parent_copied: u64::from(roles[PARENT].curve[index]),
            child_copied: u64::from(roles[CHILD].curve[index]),
        })
        .collect()
}

fn latency(ledger: &Raw) -> CowLatency {
    let [parent, child] = &ledger.roles;
    let count = parent.timed.saturating_add(child.timed);
    let min = [parent, child].iter().map(|role| role.min_ns).filter(|&ns| ns > 0).min();
    let max = Some(parent.max_ns.max(child.max_ns)).filter(|&ns| ns > 0);
    let percentile = |share: f64| {
        if count < ENOUGH_TIMED {
            return None;
        }
        let value = quantile(&ledger.latency, share)?;
        Some(value.max(min?).min(max?))
    };
    CowLatency {
        count,
        min_ns: min,
        p50_ns: percentile(0.5),
        p90_ns: percentile(0.9),
        p99_ns: percentile(0.99),
        max_ns: max,
    }
}

/// The middle of the bucket in which this share of the values is reached.
fn quantile(latency: &[[u32; BUCKETS]; ROLES], share: f64) -> Option<u64> {
    let in_bucket = |index: usize| latency.iter().map(|role| u64::from(role[index])).sum::<u64>();
    let all: u64 = (0..BUCKETS).map(in_bucket).sum();
    let wanted = ((all as f64 * share).ceil() as u64).max(1);
    let mut seen = 0;
    let bucket = (0..BUCKETS).find(|&index| {
        seen += in_bucket(index);
        seen >= wanted
    })?;
    let next = lowest_of((bucket as u32 + 1).min(BUCKETS as u32 - 1));
    Some(lowest_of(bucket as u32).midpoint(next))
}

/// The record of one fault.
pub fn fault(fault: &Fault, clock: Clock) -> CowFault {
    let is = |bit: u32| fault.state & bit != 0;
    CowFault {
        time: clock.time(fault.header.at),
        pid: fault.pid,
        tid: fault.tid,
        start_time: fault.start,
        role: if is(window::CHILD) { "child" } else { "parent" },
        outcome: if is(window::COPIED) { "copied" } else { "reused" },
        address: Address(fault.address),
        latency_ns: fault.latency_ns,
    }
}

#[cfg(test)]
mod tests {
    use forkscope_common::{Plain as _, cow::bucket_of};

    use super::*;

    fn empty() -> Raw {
        Raw::read_from(&vec![0; size_of::<Raw>()]).expect("as long as it is")
    }

    #[test]
    fn sampled_stalls_are_extrapolated_and_unknown_ones_null() {
        let role = |reused, timed, timed_ns| Role { reused, timed, timed_ns, ..Role::default() };
        assert_eq!(stall(&role(0, 0, 0)), Some(0));
        assert_eq!(stall(&role(7, 0, 0)), None);
        assert_eq!(stall(&role(1600, 100, 200_000)), Some(3_200_000));
        assert_eq!(stall(&role(5, 5, 10_001)), Some(10_001));
    }

    #[test]
    fn percentiles_need_a_hundred_faults_and_are_good_to_an_eighth() {
        let mut ledger = empty();
        for n in 1..100_u64 {
            ledger.latency[PARENT][bucket_of(n * 100) as usize] += 1;
        }
        ledger.roles[PARENT] =
            Role { reused: 99, timed: 99, min_ns: 100, max_ns: 9_900, ..Role::default() };
        let few = record(&ledger, Clock::default()).latency;
        assert_eq!(
            (few.count, few.min_ns, few.p50_ns, few.max_ns),
            (99, Some(100), None, Some(9_900))
        );
        ledger.latency[CHILD][bucket_of(10_000) as usize] += 1;
        ledger.roles[CHILD] =
            Role { reused: 1, timed: 1, min_ns: 10_000, max_ns: 10_000, ..Role::default() };
        let enough = record(&ledger, Clock::default()).latency;
        for (got, exact) in
            [(enough.p50_ns, 5_000_u64), (enough.p90_ns, 9_000), (enough.p99_ns, 9_900)]
        {
            let got = got.expect("enough of them");
            assert!(got.abs_diff(exact) * 8 <= exact, "{got} for {exact}");
        }
        assert_eq!((enough.min_ns, enough.max_ns), (Some(100), Some(10_000)));
    }

    #[test]
    fn the_curve_ends_with_the_last_copy() {
        let mut ledger = empty();
        assert!(record(&ledger, Clock::default()).curve.is_empty());
        ledger.roles[PARENT].curve[0] = 3;
        ledger.roles[CHILD].curve[2] = 1;
        let points = record(&ledger, Clock::default()).curve;
        let point = |until_ns, parent_copied, child_copied| CurvePoint {
            until_ns,
            parent_copied,
            child_copied,
        };
        assert_eq!(
            points,
            [point(1_000_000, 3, 0), point(2_000_000, 0, 0), point(4_000_000, 0, 1)]
        );
    }

    #[test]
    fn the_end_is_named() {
        for (end, name) in [
            (0, "open"),
            (end::EXEC, "exec"),
            (end::EXIT, "exit"),
            (end::PARENT_EXIT, "parent_exit"),
        ] {
            let ledger = Raw { end, ..empty() };
            assert_eq!(record(&ledger, Clock::default()).end, name);
        }
    }
}
