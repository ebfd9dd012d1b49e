//! Write faults that are not copy-on-write are not counted as such, whether or not the process
//! has taken part in a fork. They are made by `programs/notcow.c`, which shares no code with us.

use std::path::Path;

use forkscope_tests::{Rig, UNSUPPORTED, skip};

/// Of each kind so many pages, of which hardly any may be taken for copy-on-write.
const PAGES: u64 = 2000;
/// What may be.
pub const FEW: u64 = 40;

/// Modes whose pages have one owner and were protected all the same.
pub const LIFTED: [&str; 5] =
    ["mprotect", "signal_barrier", "soft_dirty", "userfaultfd_wp", "userfaultfd_wp_async"];

/// How many copy-on-write faults were counted; `None` where the machine does not have it.
fn counted(rig: &Rig, notcow: &Path, mode: &str, actor: &str) -> Option<u64> {
    let pages = PAGES.to_string();
    let words = [notcow.to_str().expect("a plain path"), mode, &pages, actor];
    let traced = rig.trace(&[]).command(words).run();
    if traced.done.status.code() == Some(UNSUPPORTED) {
        skip(traced.done.stderr());
        return None;
    }
    let recording = traced.recording;
    // It has seen for itself that the faults came to pass.
    traced.done.expect_code(0);
    recording.expect_whole();
    recording.expect_ledgers();
    let ledgers = u64::from(actor != "never");
    assert_eq!(recording.count("cow", |_| true), ledgers, "{mode}, {actor}");
    Some(recording.counter("cow_faults"))
}

fn check(mode: &str) {
    let Some(rig) = Rig::new() else { return };
    let Some(notcow) = rig.program("notcow") else { return };
    let Some(never) = counted(&rig, &notcow, mode, "never") else { return };
    assert_eq!(never, 0, "{mode} in a process that has never forked");
    for actor in ["parent", "child"] {
        let of = |mode| counted(&rig, &notcow, mode, actor);
        let (Some(bare), Some(found)) = (of("bare"), of(mode)) else { return };
        assert!(bare <= FEW, "a bare fork: {bare}");
        assert!(found <= bare + FEW, "{mode}, {actor}: {found}; a bare fork has {bare}");
    }
}

macro_rules! modes {
    ($($name:ident)+) => {
        /// All of them.
        pub const MODES: &[&str] = &[$(stringify!($name)),+];

        $(
            #[test]
            fn $name() {
                check(stringify!($name));
            }
        )+
    };
}

modes! {
    first_touch
    first_touch_early
    zero_page
    zero_page_early
    shared_anonymous
    shared_anonymous_early
    shared_file
    shared_file_msync
    private_file
    private_file_unread
    mprotect
    signal_barrier
    soft_dirty
    userfaultfd_wp
    userfaultfd_wp_async
}
