use super::*;
use crate::bench::claims::verdict::Verdict;

fn check(ruling: &Ruling, holds: bool) {
    let verdict = if holds { Verdict::Holds } else { Verdict::Not };
    assert_eq!(ruling.verdict, verdict, "{ruling:?}");
    assert!(ruling.figures.len() >= 2);
}

fn kcmp(maker: &str, shared: [bool; 4]) -> Shared {
    let [memory, files, file_system, handlers] = shared;
    Shared { maker: maker.into(), tid: 1, memory, files, file_system, handlers }
}

#[test]
fn flags_decide_or_not() {
    let entered = |mechanism: &str, flags: &[&str]| Entered {
        mechanism: mechanism.into(),
        door: "clone".into(),
        flags: flags.iter().map(ToString::to_string).collect(),
    };
    let all = [
        entered("fork", &["CLONE_CHILD_SETTID"]),
        entered("vfork", &["CLONE_VM", "CLONE_VFORK"]),
        entered("thread", &["CLONE_VM", "CLONE_FS", "CLONE_FILES", "CLONE_SIGHAND"]),
    ];
    let none = [false; 4];
    for (vfork, holds) in
        [([true, false, false, false], true), ([true, true, false, false], false), (none, false)]
    {
        let shared = [kcmp("fork", none), kcmp("vfork", vfork), kcmp("thread", [true; 4])];
        let ruling = all_clone(&all, &shared).unwrap();
        check(&ruling, holds);
        assert!(ruling.evidence.contains("thread (clone): all shared"), "{}", ruling.evidence);
    }
    assert!(all_clone(&all, &[kcmp("fork", none)]).is_err());
    assert!(all_clone(&[], &[]).is_err());
}

#[test]
fn vfork_freezes_or_not() {
    let vfork = kcmp("vfork", [true, false, false, false]);
    let outlived =
        |frozen_ns| Outlived { frozen_ns, lived_ns: 90e6, longest_gap_of_another_thread_ns: 1.2e6 };
    for (until_exit, until_exec, executing, holds) in [
        (50.1e6, 50.9e6, 20e6, true),
        (47.6e6, 74.9e6, 59e6, true),
        (47.4e6, 50.9e6, 20e6, false),
        (50.1e6, 0.2e6, 20e6, false),
        (50.1e6, 75.1e6, 20e6, false),
        (50.1e6, 50.9e6, 61e6, false),
    ] {
        let times = Frozen { held: 50e6, until_exit, until_exec, fork: 2e5, traced: None };
        check(&frozen(&times, &outlived(executing), &vfork), holds);
    }
    let times =
        Frozen { held: 50e6, until_exit: 50e6, until_exec: 50e6, fork: 2e5, traced: Some(5e7) };
    check(&frozen(&times, &outlived(20e6), &vfork), true);
    check(&frozen(&times, &outlived(20e6), &kcmp("vfork", [false; 4])), false);
}

#[test]
fn exec_resets_or_not() {
    let sound = Exec {
        before: Before {
            failed: vec![Failed { errno: Some(2), expected: 2 }],
            intact_after_failures: true,
            rss_bytes: 80e6,
            page_table_bytes: 200e3,
            mappings: 40.0,
        },
        kept: false,
        rss_bytes: 12e6,
        page_table_bytes: 100e3,
        mappings: 35.0,
    };
    check(&exec_resets(&sound), true);
    type Change = fn(&mut Exec);
    let changes: [Change; 6] = [
        |e| e.kept = true,
        |e| e.page_table_bytes = 101e3,
        |e| e.rss_bytes = 41e6,
        |e| e.before.failed[0].errno = Some(13),
        |e| e.before.failed.clear(),
        |e| e.before.intact_after_failures = false,
    ];
    for change in changes {
        let mut exec = sound.clone();
        change(&mut exec);
        check(&exec_resets(&exec), false);
    }
}

#[test]
fn user_level_tasks_are_the_programs_own_or_not() {
    let tasks = |tasks, kernel_tasks, traced| Tasks { tasks, kernel_tasks, traced };
    let threads = tasks(1000.0, 1001.0, Some(1000.0));
    for (user, holds) in [
        (tasks(1000.0, 1.0, Some(0.0)), true),
        (tasks(1000.0, 1.0, None), true),
        (tasks(1000.0, 2.0, None), false),
        (tasks(1000.0, 1.0, Some(1.0)), false),
    ] {
        check(&user_level(&user, &threads).unwrap(), holds);
    }
    assert!(user_level(&tasks(99.0, 1.0, None), &threads).is_err());
    assert!(user_level(&tasks(1000.0, 1.0, None), &tasks(1000.0, 500.0, None)).is_err());
}

#[test]
fn rfork_has_its_like_or_not() {
    let line = |as_in_plan9| Line { as_in_plan9, ..Line::default() };
    let refused = || Line { refused: Some("root is needed".into()), ..Line::default() };
    let found = |libc_has_rfork, lines| Rfork { libc_has_rfork, lines };
    let three = || vec![line(true), line(true), line(true)];
    check(&plan9(&found(false, three())).unwrap(), true);
    check(&plan9(&found(true, three())).unwrap(), false);
    check(&plan9(&found(false, vec![line(true), line(true), line(false)])).unwrap(), false);
    check(
        &plan9(&found(false, vec![line(true), line(true), line(true), refused()])).unwrap(),
        true,
    );
    assert!(plan9(&found(false, vec![line(true), line(true), refused()])).is_err());
}
