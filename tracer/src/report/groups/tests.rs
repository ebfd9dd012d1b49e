//! Groups that come and go, and what is left of them.

use super::*;
use crate::recording::entry::{Child, Parent, Text};

fn text(text: &str) -> Text<'_> {
    Text(text.into())
}

fn spawn<'a>(comm: &'a str, pid: u32, rss: u64) -> Spawn<'a> {
    Spawn {
        time: text(""),
        mechanism: text("fork"),
        syscall: None,
        clone_flags: Vec::new(),
        parent: Parent { pid: 1, tid: 1, comm: text(comm), start_time: 1 },
        child: Child { pid, tid: pid, ns_pid: None, start_time: 9 },
        uid: None,
        cgroup: Some(text("/a")),
        container: None,
        latency_ns: Some(1000),
        blocked_ns: None,
        copy_ns: Some(500),
        start_delay_ns: None,
        parent_rss_bytes: Some(rss),
        parent_page_table_bytes: None,
        parent_vmas: None,
        parent_threads: None,
        lossy: false,
    }
}

#[test]
fn sizes_are_powers_of_two() {
    for (bytes, from, to) in [
        (0, 0, 1 << 20),
        ((1 << 20) - 1, 0, 1 << 20),
        (1 << 20, 1 << 20, 2 << 20),
        ((2 << 20) - 1, 1 << 20, 2 << 20),
        (3 << 30, 2 << 30, 4 << 30),
    ] {
        let size = Size::of_class(Size::class(bytes));
        assert_eq!((size.from_bytes, size.to_bytes), (from, to), "{bytes}");
    }
    assert!(Size::of_class(Size::class(u64::MAX)).from_bytes > 0);
}

#[test]
fn nothing_is_lost_between_the_groups_and_the_others() {
    let mut groups = Groups::new(&[By::Mechanism, By::Comm, By::Cgroup, By::Size]);
    groups.most = 64;
    // One that is there all the time, among many that come and go.
    for n in 0..5000 {
        groups.spawn(&spawn("steady", 2 * n, 5 << 20));
        groups.spawn(&spawn(&format!("name{n}"), 2 * n + 1, 0));
    }
    assert!(groups.cells.len() <= 65 && groups.index.len() <= 64);
    let shown: Shown<Spawned> = groups.shown(3, Sort::Spawns);
    let first = &shown.groups[0];
    let key = first.key.as_ref().unwrap();
    assert_eq!((first.spawns, key.comm.as_deref()), (5000, Some("steady")));
    assert_eq!(key.parent_size.unwrap().from_bytes, 4 << 20);
    let all = shown.groups.iter().map(|group| group.spawns).sum::<u64>() + shown.other.spawns;
    assert_eq!(all, 10_000);
    let times: u64 = shown.groups.iter().map(|group| group.call_total_ns).sum();
    assert_eq!(times + shown.other.call_total_ns, 10_000 * 1000);
    assert_eq!(shown.folded_below, Some(1));
}

#[test]
fn what_is_not_asked_for_makes_no_group() {
    let mut groups = Groups::new(&[By::Comm]);
    groups.spawn(&spawn("a", 1, 0));
    groups.spawn(&spawn("a", 2, 1 << 30));
    groups.spawn(&spawn("", 3, 1 << 30));
    let shown: Shown<Spawned> = groups.shown(9, Sort::Time);
    assert_eq!(shown.groups.len(), 2);
    let key = shown.groups[0].key.clone().unwrap();
    let expected = Key { comm: Some("a".into()), ..Key::default() };
    assert_eq!((shown.groups[0].spawns, key), (2, expected));
    assert_eq!(shown.groups[1].key.as_ref().unwrap().comm.as_deref(), Some(""));
}

#[test]
fn a_ledger_goes_to_the_spawn_that_it_is_of() {
    let mut groups = Groups::new(&[By::Mechanism]);
    groups.spawn(&spawn("a", 7, 0));
    let side = |pid, copied| crate::recording::entry::CowSide {
        pid,
        comm: text("a"),
        start_time: 9,
        faults: copied,
        copied,
        reused: 0,
        copied_bytes: copied * 4096,
        stall_ns: None,
    };
    let ledger = |pid| Ledger {
        time: text(""),
        parent: side(1, 10),
        child: side(pid, 5),
        end: text("exit"),
        duration_ns: 1,
        overlapping: false,
        carried_over: 0,
        huge_splits: 0,
        hugetlb_copied_bytes: None,
        latency: Default::default(),
        curve: Vec::new(),
        lossy: false,
    };
    groups.cow(&ledger(7));
    groups.section();
    groups.cow(&ledger(7));
    let shown: Shown<Spawned> = groups.shown(9, Sort::Spawns);
    let found: Vec<_> = shown.groups.iter().map(|g| (g.spawns, g.cow_copied)).collect();
    assert_eq!(found, [(1, 15), (0, 15)]);
}

#[test]
fn a_container_is_one_group_whenever_its_name_comes() {
    let id = "ab".repeat(32);
    let container = |name: Option<&'static str>| Container {
        runtime: Some(text("docker")),
        id: Text(id.clone().into()),
        pod: None,
        name: name.map(text),
        image: None,
        pod_name: name.map(|_| text("pod\u{1b}")),
        namespace: None,
    };
    let mut groups = Groups::new(&[By::Container]);
    for (n, name) in [None, Some("web"), None, Some("other")].into_iter().enumerate() {
        let child = n as u32 + 10;
        let spawn = Spawn { container: Some(container(name)), ..spawn("sh", child, 1) };
        groups.spawn(&spawn);
    }
    groups.spawn(&spawn("sh", 20, 1));
    let shown: Shown<Spawned> = groups.shown(10, Sort::Spawns);
    let keys: Vec<_> = shown.groups.iter().map(|g| (g.key.clone().unwrap(), g.spawns)).collect();
    assert_eq!(keys.len(), 2, "{keys:?}");
    assert_eq!((keys[0].0.container.as_deref(), keys[0].1), (Some(&*id), 4));
    assert_eq!(keys[0].0.container_name.as_deref(), Some("pod\u{1b}/web"), "the first told");
    assert_eq!((keys[1].0.container.as_deref(), keys[1].1), (None, 1));
}
