//! How it was measured, and what is missing.

use std::fmt::Write as _;

use super::sentence;
use crate::{
    bench::Unit,
    page::{
        document::text,
        gather::Found,
        tables::{Cell, Table, columns},
    },
    report::merge::Source,
    text::{count, plural},
};

/// Appends the section.
pub fn measured(out: &mut String, found: &Found, rows: usize) {
    out.push_str(
        "<section id=\"measured\" aria-labelledby=\"measured-h\">\n\
         <h2 id=\"measured-h\">How it was measured</h2>\n",
    );
    let mut notes: Vec<String> = found.profile.notes.clone();
    let limits = found.limits;
    let from_records =
        found.report.recordings.iter().filter(|s| s.source == Source::Records).count() as u64;
    if from_records > 0 {
        notes.push(format!(
            "{} without a summary of its own: its figures are from the records",
            plural(from_records, "recording")
        ));
    }
    if limits.argv_truncated > 0 {
        notes.push(format!(
            "{} cut: there was more (trace --max-argv)",
            match limits.argv_truncated {
                1 => "1 command line was".to_string(),
                n => format!("{} command lines were", count(n)),
            }
        ));
    }
    if limits.lossy > 0 {
        notes.push(format!(
            "{} with text that is not UTF-8: it is shown with \u{fffd}",
            plural(limits.lossy, "record")
        ));
    }
    if found.of == "report" && limits.profiles > 1 {
        notes.push(
            "there are several profiles; what each says of mappings, code and the machine's memory \
             is in a page of its recording alone"
                .into(),
        );
    }
    for one in &found.report.disagreements {
        notes.push(format!(
            "{}: {}: the kernel counted {}, the records have {} ({} are said to be lost)",
            one.recording,
            one.what,
            count(one.kernel),
            count(one.records),
            plural(one.lost, "record")
        ));
    }
    notes.extend(found.report.problems.iter().cloned());
    let more = notes.len().saturating_sub(rows);
    notes.truncate(rows);
    let lost = found.report.summary.lost;
    let _ = writeln!(
        out,
        "<p>Backend {}. Lost on the way{}: {} in the kernel, {} undecodable, {} at the output.</p>",
        text(&found.snapshot.about.backend),
        if found.report.losses_told() { "" } else { ", as far as is known" },
        count(lost.kernel),
        count(lost.decode),
        count(lost.sink)
    );
    if !notes.is_empty() {
        out.push_str("<ul>\n");
        for note in &notes {
            let _ = writeln!(out, "<li>{}</li>", sentence(note));
        }
        if more > 0 {
            let _ = writeln!(out, "<li>{} left out here.</li>", plural(more as u64, "more note"));
        }
        out.push_str("</ul>\n");
    }
    measures(found).render(out);
    recordings(found).cut(rows).render(out);
    out.push_str("</section>\n");
}

fn measures(found: &Found) -> Table {
    Table {
        id: "measures",
        caption: "Measurements, of the last session",
        columns: columns([
            ("measurement", "measurement", Unit::Text),
            ("state", "state", Unit::Text),
            ("by", "by", Unit::Text),
            ("why not better", "why", Unit::Text),
        ]),
        rows: found
            .snapshot
            .about
            .measures
            .iter()
            .map(|(name, measure)| {
                let state = match measure.sampling_period {
                    Some(n) if n > 1 => format!("{}, 1 in {n}", measure.state),
                    _ => measure.state.clone(),
                };
                vec![
                    Cell::Text(name.replace('_', " ")),
                    Cell::Text(state),
                    Cell::Text(measure.by.clone().unwrap_or_default()),
                    Cell::Text(measure.why.clone().unwrap_or_default()),
                ]
            })
            .collect(),
        left_out: 0,
    }
}

fn recordings(found: &Found) -> Table {
    Table {
        id: "recordings",
        caption: "Recordings",
        columns: columns([
            ("recording", "recording", Unit::Text),
            ("host", "host", Unit::Text),
            ("kernel", "kernel", Unit::Text),
            ("backend", "backend", Unit::Text),
            ("records", "records", Unit::Count),
            ("traced", "duration_ns", Unit::Ns),
            ("lost", "lost", Unit::Count),
            ("figures from", "source", Unit::Text),
        ]),
        rows: found
            .report
            .recordings
            .iter()
            .map(|one| {
                let or = |text: &Option<String>| Cell::Text(text.clone().unwrap_or_default());
                vec![
                    Cell::Text(one.recording.clone()),
                    or(&one.host),
                    or(&one.kernel),
                    or(&one.backend),
                    one.records.into(),
                    one.duration_ns.into(),
                    match one.lost.total() {
                        0 if one.source == Source::Records => Cell::Number(None),
                        n => n.into(),
                    },
                    Cell::from(match one.source {
                        Source::Kernel => "the kernel's counts",
                        Source::Records => "its records",
                    }),
                ]
            })
            .collect(),
        left_out: 0,
    }
}
