//! Figure 1 of "A fork() in the road" (Baumann, Appavoo, Krieger, Roscoe: HotOS 2019): the whole
//! cycle of starting a program, by the parent's memory and its state.
//!
//! Figures by size: `SHAPE_WAY_cycle_p50_ns.64MiB`, where SHAPE is `clean`, `dirty` or `fragmented`
//! and WAY is `fork_exec`, `vfork_exec` or `posix_spawn`. And at the largest size
//! `fork_vfork_exec_ratio` (dirty), `posix_spawn_vfork_exec_ratio` (dirty), `largest_bytes`.

use super::tools::{Paper, at, command, cycle, ns, p50, size, sizes, span, times, workload};
use crate::{
    bench::{Lab, Outcome, Unit},
    failure::Failure,
};

/// How the parent's memory is, by the generator's flags.
const SHAPES: [(&str, &str); 3] = [
    ("clean", "--dirty 0%"),
    ("dirty", "--dirty 100%"),
    ("fragmented", "--dirty 100% --layout fragmented"),
];
const WAYS: [&str; 3] = ["fork_exec", "vfork_exec", "posix_spawn"];
const QUICK: &[u64] = &[16, 128, 512];
const FULL: &[u64] = &[4, 16, 64, 256, 1024, 2048, 4096];

/// Makes it.
pub fn run(lab: &Lab) -> Result<Outcome, Failure> {
    let mut paper = Paper::new(
        "hotos",
        "starting a program, from the call to the reaped child (HotOS'19, figure 1)",
        &[
            ("rss_bytes", "parent", Unit::Bytes),
            ("shape", "memory", Unit::Text),
            ("vmas", "mappings", Unit::Count),
            ("fork_exec_cycle_p50_ns", "fork + exec", Unit::Ns),
            ("vfork_exec_cycle_p50_ns", "vfork + exec", Unit::Ns),
            ("posix_spawn_cycle_p50_ns", "posix_spawn", Unit::Ns),
            ("fork_vfork_ratio", "fork by vfork", Unit::Ratio),
        ],
    );
    let sizes = sizes(lab, &mut paper, QUICK, FULL);
    let mut lines: Vec<(String, Vec<(f64, f64)>)> = SHAPES
        .iter()
        .flat_map(|(shape, _)| WAYS.map(|way| (named(shape, way), Vec::new())))
        .collect();
    lab.progress.steps(sizes.len() * SHAPES.len());
    let mut last = [[0.0; 3]; 3];
    for &bytes in &sizes {
        for (s, (shape, flags)) in SHAPES.into_iter().enumerate() {
            lab.progress.step(&format!("{shape} parent of {}", size(bytes)));
            let words = format!(
                "fork+exec,vfork+exec,posix_spawn --rss {}MiB {flags} --huge-pages never --warm-up 2 \
                 --duration {}",
                bytes >> 20,
                span(lab, bytes)
            );
            let truth = workload(lab, &words)?;
            paper.command(command(&words));
            for (n, way) in WAYS.into_iter().enumerate() {
                let cycle = p50(cycle(&truth, n)?);
                paper.figure(at(&format!("{shape}_{way}_cycle_p50_ns"), bytes), cycle);
                lines[s * 3 + n].1.push((bytes as f64, cycle));
                last[s][n] = cycle;
            }
            let [fork, vfork, spawn] = last[s];
            paper.row([
                bytes.into(),
                shape.into(),
                truth.parent.vmas.into(),
                fork.into(),
                vfork.into(),
                spawn.into(),
                (fork / vfork).into(),
            ]);
        }
    }
    let largest = sizes.last().copied().unwrap_or(0);
    let [clean, dirty, fragmented] = last;
    paper.figure("largest_bytes", largest as f64);
    paper.figure("fork_vfork_exec_ratio", dirty[0] / dirty[1]);
    paper.figure("posix_spawn_vfork_exec_ratio", dirty[2] / dirty[1]);
    paper.note(
        "clean: every page was read and none written; all of them are the one page of zeros"
            .to_string(),
    );
    paper.plot(
        ("memory of the parent", Unit::Bytes, true),
        ("whole cycle, median", Unit::Ns, true),
        // Nine lines would hide each other: vfork and posix_spawn are shown of the dirty parent.
        lines.into_iter().enumerate().filter(|(n, _)| n % 3 == 0 || n / 3 == 1).map(|(_, l)| l),
    );
    Ok(paper.verdict(format!(
        "at {}, fork+exec takes {} of a clean parent, {} dirty, {} fragmented; dirty, vfork+exec \
         takes {} ({}) and posix_spawn {}",
        size(largest),
        ns(clean[0]),
        ns(dirty[0]),
        ns(fragmented[0]),
        ns(dirty[1]),
        times(dirty[0] / dirty[1]),
        ns(dirty[2])
    )))
}

/// `fork+exec, dirty`
fn named(shape: &str, way: &str) -> String {
    format!("{}, {shape}", way.replace("_exec", "+exec"))
}
