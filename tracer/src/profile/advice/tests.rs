use super::*;
use crate::record::{
    Address,
    profile::{ByRole, CgroupRoom, Headroom, HugePages, Mapping},
};

fn fork() -> Fork {
    Fork {
        end: Some("exit"),
        latency_ns: Some(14_000_000),
        copy_ns: Some(13_000_000),
        parent_rss_bytes: Some(500 << 20),
        parent_page_table_bytes: Some(1_100_000),
        parent_copied: Some(2500),
        child_copied: Some(50),
        parent_stall_ns: Some(6_000_000),
        ..Fork::default()
    }
}

fn check(change: impl Fn(&mut Profile), expected: &[&str]) {
    let mut profile = Profile { forks: vec![fork(), fork()], ..Profile::default() };
    change(&mut profile);
    let found = advise(&profile);
    let about: Vec<&str> = found.iter().map(|advice| advice.about).collect();
    assert_eq!(about, expected);
    for advice in found {
        assert!(advice.text.contains(|c: char| c.is_ascii_digit()), "{}", advice.text);
        assert!(!advice.figures.is_empty());
    }
}

fn each(change: impl Fn(&mut Fork)) -> impl Fn(&mut Profile) {
    move |profile| profile.forks.iter_mut().for_each(&change)
}

#[test]
fn each_piece_needs_its_figures() {
    check(|profile| profile.forks.clear(), &[]);
    check(|_| {}, &[]);
    check(each(|fork| fork.parent_stall_ns = Some(4_000_000)), &["call"]);
    check(each(|fork| fork.parent_stall_ns = Some(50_000_000)), &["faults"]);
    check(each(|fork| fork.end = Some("exec")), &["fork_exec"]);
    check(each(|fork| (fork.end, fork.parent_rss_bytes) = (Some("exec"), Some(1 << 20))), &[]);
    check(each(|fork| fork.parent_vmas = Some(60_000)), &["vmas"]);
    check(each(|fork| fork.overlapping = true), &["overlapping"]);
    check(|profile| profile.failures = [("ENOMEM".into(), 3)].into(), &["enomem"]);
    check(|profile| profile.failures = [("EAGAIN".into(), 3)].into(), &[]);
}

#[test]
fn memory_is_advised_about_where_it_is_known() {
    let huge = |anonymous_bytes| {
        move |profile: &mut Profile| {
            profile.huge_pages =
                Some(HugePages { rss_bytes: 500 << 20, anonymous_bytes, setting: None });
        }
    };
    check(huge(0), &["huge_pages"]);
    check(huge(400 << 20), &[]);
    check(
        |profile| {
            profile.forks[0].huge_splits = Some(500);
            profile.fault = ByRole { parent: Some(Percentiles::default()), child: None };
        },
        &["huge_splits"],
    );
    let mapping = |kind: &'static str, share| Mapping {
        kind: kind.into(),
        name: None,
        start: Some(Address(0x7f00_0000_0000)),
        size_bytes: Some(100 << 20),
        copied: 2000,
        share,
    };
    check(|profile| profile.mappings = vec![mapping("anonymous", 0.8)], &["madv_dontfork"]);
    check(|profile| profile.mappings = vec![mapping("anonymous", 0.1)], &[]);
    check(|profile| profile.mappings = vec![mapping("heap", 0.8)], &[]);
    let room = |change: fn(&mut Headroom)| {
        move |profile: &mut Profile| {
            let mut room = Headroom { needed_bytes: 1000, ..Headroom::default() };
            change(&mut room);
            profile.headroom = Some(room);
        }
    };
    check(room(|_| {}), &[]);
    check(room(|room| room.commit_available_bytes = Some(999)), &["overcommit"]);
    check(room(|room| room.machine_available_bytes = Some(999)), &["memory"]);
    check(
        room(|room| {
            room.cgroup =
                Some(CgroupRoom { path: "/x".into(), limit_bytes: 900, available_bytes: 5 });
        }),
        &["cgroup_limit"],
    );
}
