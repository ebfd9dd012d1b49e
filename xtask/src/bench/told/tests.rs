use super::{super::seen::Counts, *};

fn counts(spawns: u64, execs: u64, exits: u64) -> Counts {
    Counts { spawns, execs, exits, ..Counts::default() }
}

fn told(tracer: Tracer, written: Written<'_>) -> Seen {
    seen(tracer, written).unwrap()
}

const RECORDS: &str = r#"{"type":"header"}
{"type":"spawn","parent":{"comm":"loop"}}
{"type":"spawn","parent":{"comm":"other"}}
{"type":"exec","comm":"loop","errno":null}
{"type":"exec","comm":"loop","errno":"ENOENT"}
{"type":"exit","comm":"loop"}
{"type":"cow","parent":{"comm":"loop","faults":7}}
{"type":"summary","counters":{"spawns":{"fork":1,"thread":1},"execs":1,"exec_failures":1,"exits":1,"cow_faults":9},"lost":{"kernel":0,"sink":0}}
"#;

#[test]
fn records_of_ours() {
    let of = |records: &str| seen(Tracer::Trace(&[]), Written { records, ..Written::default() });
    let whole = of(RECORDS).unwrap();
    assert_eq!(whole.of("loop"), Counts { ledgers: 1, faults: 7, ..counts(1, 1, 1) });
    assert_eq!((whole.of("other").spawns, whole.lost), (1, Some(0)));
    let check = |from, to, expected: &str| {
        let error = of(&RECORDS.replace(from, to)).unwrap_err();
        assert_eq!(error.to_string(), expected);
    };
    check(r#""kernel":0"#, r#""kernel":3"#, "it lost 3 events");
    check(r#""execs":1"#, r#""execs":2"#, "it counted 2 execs and told 1");
    check(r#""fork":1"#, r#""fork":0"#, "it counted 1 spawns and told 2");
    check(r#""type":"summary""#, r#""type":"x""#, "its records have no summary");
    assert!(of(&RECORDS[..90]).is_err());
    // What is not measured is not counted.
    assert!(of(&RECORDS.replace(r#""exits":1"#, r#""exits":null"#)).is_ok());
}

#[test]
fn text_of_ours() {
    let records = "time     how         parent                     child      call to exec  what
15:43:54 thread      loop[31373]              +26834    32 µs       –
15:43:54 fork        bash[8951]               4723     199 µs 10.8 ms  ./loop cow
15:43:55 cow         loop[4723]               6929                     1,005 pages copied
304 µs, 11 spawns, 0 execs, 11 exits, nothing lost
";
    let of = |records: &str| seen(Tracer::Text, Written { records, ..Written::default() });
    let whole = of(records).unwrap();
    assert_eq!((whole.of("loop"), whole.lost), (counts(1, 0, 0), Some(0)));
    assert!(
        of(&records.replace("nothing lost", "3 records LOST (kernel 3, decode 0, output 0)"))
            .is_err()
    );
    assert!(of(&records[..200]).is_err());
}

#[test]
fn metrics_of_ours() {
    let records = "# TYPE forkscope_spawns_total counter
forkscope_spawns_total{mechanism=\"fork\",comm=\"loop\"} 2
forkscope_spawns_total{mechanism=\"thread\",comm=\"loop\"} 146
forkscope_execs_total{result=\"ok\",comm=\"loop\"} 3
forkscope_execs_total{result=\"failed\",comm=\"loop\"} 5
forkscope_events_lost_total{stage=\"kernel\"} 0
";
    let of = |records: &str| seen(Tracer::Serve, Written { records, ..Written::default() });
    assert_eq!(of(records).unwrap().of("loop"), counts(148, 3, 0));
    let lossy = records.replace("\"kernel\"} 0", "\"kernel\"} 4");
    assert_eq!(of(&lossy).unwrap_err().to_string(), "it lost 4 events");
    assert!(of("").is_err());
}

#[test]
fn tables_of_the_snoops() {
    let out = "PCOMM            PID    PPID   RET ARGS
loop             12692  18515    0 /tmp/loop -p -m 700
loop             12693  18515   -2 /tmp/nothing
";
    let err = "Lost 12 events on CPU #1!\nLost 3 events on CPU #0!\n";
    let seen = told(Tracer::Execsnoop, Written { out, err, ..Written::default() });
    assert_eq!((seen.of("loop"), seen.lost), (counts(0, 1, 0), Some(15)));
    let out = "PCOMM            PID     PPID    TID     AGE(s)  EXIT_CODE
loop             12692   18515   12692   0.00    0
loop             12692   18515   12693   0.00    signal 9
";
    let seen = told(Tracer::Exitsnoop, Written { out, ..Written::default() });
    assert_eq!((seen.of("loop"), seen.lost), (counts(0, 0, 2), Some(0)));
}

#[test]
fn lines_of_forkstat() {
    let out = "Time     Event   PID Info   Duration Process
15:32:42 clone 18514 parent          loop
15:32:42 clone 12690 thread          loop
15:32:42 fork  18515 parent          loop
15:32:42 fork  12692 child           loop
15:32:42 exec  12692                 loop
15:32:42 exit  12692      0   0.003s loop
";
    let seen = told(Tracer::Forkstat, Written { out, ..Written::default() });
    assert_eq!((seen.of("loop"), seen.lost), (counts(2, 1, 1), None));
}

#[test]
fn lines_of_bpftrace() {
    let records = "Attaching 16 probes...
spawn loop 1 2
argv loop 2 /tmp/loop nothing
exec loop 2 500
exit loop 2 900
Lost 7 events
@faults[loop]: 1000
@faults[other]: 5
";
    let err = "Lost 2 events\n";
    let seen = told(Tracer::Bpftrace, Written { records, err, ..Written::default() });
    assert_eq!(seen.of("loop"), Counts { faults: 1000, ..counts(1, 1, 1) });
    assert_eq!(seen.lost, Some(9));
}

#[test]
fn lines_of_perf() {
    let records = "         ? (         ): loop/12690  ... [continued]: clone())      = 0
     1.513 ( 0.269 ms): loop/18515 clone(clone_flags: CHILD_CLEARTID) = 12692 (bash)
     2.161 ( 0.369 ms): loop/12692 execve(filename: 0x8f053cf0) = 0
     4.118 (         ): loop/12692 exit_group()                  = ?
LOST 5 events!
";
    let seen = told(Tracer::PerfTrace, Written { records, ..Written::default() });
    assert_eq!((seen.of("loop"), seen.lost), (counts(1, 1, 1), Some(5)));
}

#[test]
fn reports_of_perf() {
    let csv = "# started on Sun\n\n     0.100163,0,,syscalls:sys_enter_vfork,200,100.00,,\n\
               0.200371,12,,syscalls:sys_enter_vfork,200,100.00,,\n\
               0.3,<not counted>,,syscalls:sys_enter_vfork,0,0.00,,\n";
    assert!(is_enabled(csv));
    assert!(!is_enabled(""));
    assert!(!is_enabled("0.3,<not counted>,,syscalls:sys_enter_vfork,0,0.00,,\n"));
}

#[test]
fn lines_of_strace() {
    let records = "12771 execve(\"/tmp/loop\", [\"loop\"], 0x7ffeca12f9e8 /* 35 vars */) = 0
12771 vfork( <unfinished ...>
12772 execve(\"/tmp/loop\", [\"loop\"], 0x560016de6b08 <unfinished ...>
12771 <... vfork resumed>)              = 12772
12772 <... execve resumed>)             = 0
12772 exit_group(0)                     = ?
12772 +++ exited with 0 +++
12771 +++ exited with 0 +++
";
    let seen = told(Tracer::Strace, Written { records, comm: "loop", ..Written::default() });
    assert_eq!((seen.of("loop"), seen.lost), (counts(1, 2, 2), Some(0)));
}
