//! A small run, for tests.

use super::record::{Alone, Cell, FORM, Machine, Pair, Program, Row, Run, Session, Timed};

fn cell(workload: &str, ratios: [f64; 5]) -> Cell {
    let pair = |ratio: f64| Pair {
        bare_ns: 100_000.0,
        traced_ns: 100_000.0 * ratio,
        wall_ns: 250e6,
        cpu_ns: Some(10e6),
        expected: Some(10_000),
        delivered: Some(10_000),
    };
    Cell { workload: workload.into(), void: None, pairs: ratios.map(pair).to_vec() }
}

fn row(key: &str, title: &str, cells: Vec<Cell>) -> Row {
    let sessions = vec![Session { peak_kib: Some(20 * 1024), lost: Some(0) }];
    Row { key: key.into(), title: title.into(), cells, sessions, ..Row::default() }
}

/// With a row of each kind: measured, lossy, skipped and void.
pub fn run() -> Run {
    let even = [0.99, 1.0, 1.0, 1.0, 1.01];
    let void = Cell {
        workload: "make".into(),
        void: Some("pair 3: it lost 7 events".into()),
        pairs: Vec::new(),
    };
    let aa = ["exec", "thread", "fork", "getppid"].map(|what| cell(what, even)).to_vec();
    let trace = vec![
        cell("exec", [1.0, 1.01, 1.02, 1.03, 1.04]),
        cell("thread", [1.2, 1.21, 1.22, 1.23, 1.24]),
        cell("fork", [1.05; 5]),
        cell("getppid", [1.2; 5]),
        void,
    ];
    let program = |name: &str, runs, ns| Program { name: name.into(), runs, ns, missed: 0 };
    let programs = vec![
        program("task_newtask", 1_000, 900_000),
        program("call_enter", 1_000, 200_000),
        program("sched_process_exit", 1_000, 500_000),
    ];
    let timed = |tracer: &str, programs| Timed {
        tracer: tracer.into(),
        workload: "thread".into(),
        void: None,
        units: 1_000,
        programs,
    };
    let fentry = Row {
        skipped: Some("refused by the kernel".into()),
        sessions: Vec::new(),
        ..row("fentry", "  --backend fentry", vec![Cell::default()])
    };
    Run {
        form: FORM,
        machine: Machine {
            date: "2026-01-02 03:04 UTC".into(),
            kernel: "6.18".into(),
            cpu: "A CPU".into(),
            cpus: 2,
            memory_mib: 4096,
            layout: "loops on CPU 1, tracers on CPU 0".into(),
            load: ["0.10".into(), "1.20".into()],
            others: std::collections::BTreeSet::default(),
            versions: [("perf".into(), "perf version 6.1".into())].into(),
        },
        pairs: 5,
        only: "all".into(),
        seconds: 754.0,
        rows: vec![
            row("aa", "A/A, nothing traced", aa),
            row("trace", "forkscope trace", trace),
            row("most", "  … spawn,exec,exit,cow", vec![cell("getppid", even)]),
            row("hooks", "empty programs, same hooks", vec![cell("exec", [1.03; 5])]),
            fentry,
            row("execsnoop", "execsnoop", vec![cell("exec", [1.08, 1.09, 1.1, 1.11, 1.12])]),
            row("one", "one tracepoint", vec![cell("getppid", [1.2; 5])]),
        ],
        timed: vec![
            timed("trace", programs),
            timed("hooks", vec![program("task_newtask", 1_000, 40_000)]),
        ],
        alone: Some(Alone {
            first_event_s: vec![0.2, 0.25, 0.28, 0.31, 0.4],
            idle_percent: vec![0.05],
            void: None,
        }),
    }
}
