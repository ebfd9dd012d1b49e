//! The page from top to bottom: what a reader came for first, how it was measured last.

use std::fmt::Write as _;

use super::{
    document::{self, escaped, text},
    gather::Found,
    json, plots,
    tables::{Cell, Table, columns},
};
use crate::{
    bench::{Unit, text::number},
    profile::{cost, text::words},
    record::{
        Distribution, PAGE,
        profile::{Answer, Profile},
    },
    text::{count, duration, plural},
};

mod forks;
mod measured;
mod who;

use self::{forks::forks, measured::measured, who::who};

/// Memory that a page forecasts for, unless asked for another size.
const USUAL: u64 = 32 << 30;

/// A size in the units that memory is bought in, as tables and plots have them too.
pub fn size(bytes: u64) -> String {
    if bytes < 1 << 20 { number(bytes as f64, Unit::Bytes) } else { words::memory(bytes) }
}

/// The whole page, with tables of at most so many rows.
pub fn page(found: &Found, rows: usize) -> String {
    let mut out = String::new();
    let subject = found.subject();
    let title = match found.of {
        "profile" => format!("What forks cost {subject}"),
        _ => format!("What was spawned: {subject}"),
    };
    document::head(&mut out, &crate::text::visible(&title), true);
    let _ = writeln!(
        out,
        "<header>\n<h1>{}</h1>\n<p class=\"dim\">{}</p>\n</header>",
        text(&title),
        escaped(&described(found))
    );
    let forked = !found.profile.forks.is_empty();
    out.push_str("<nav aria-label=\"On this page\"><ul>");
    for (id, name, there) in [
        ("short", "In short", true),
        ("latency", "Latencies", true),
        ("forks", "Forks", forked),
        ("time", "Over time", true),
        ("who", "Who", true),
        ("measured", "How it was measured", true),
    ] {
        if there {
            let _ = write!(out, "<li><a href=\"#{id}\">{name}</a></li>");
        }
    }
    out.push_str("</ul></nav>\n<main id=\"content\">\n");
    short(&mut out, found);
    latency(&mut out, found);
    if forked {
        forks(&mut out, found, rows);
    }
    over_time(&mut out, found);
    who(&mut out, found, rows);
    measured(&mut out, found, rows);
    out.push_str("</main>\n<footer>");
    let figures = json::figures(found);
    let _ = writeln!(
        out,
        "<p>Made by forkscope {}. Every figure of this page is in it as JSON too, in the element \
         with the id <code>figures</code>.</p></footer>",
        env!("CARGO_PKG_VERSION")
    );
    document::json(&mut out, "figures", &figures);
    document::foot(&mut out, true);
    out
}

/// Where, when and for how long, in a line.
fn described(found: &Found) -> String {
    let sections = &found.report.recordings;
    let about = &found.snapshot.about;
    let mut parts = Vec::new();
    if sections.len() == 1 {
        parts.push(format!("{} · kernel {} {}", about.host, about.kernel, about.arch));
    } else {
        parts.push(plural(sections.len() as u64, "recording"));
    }
    let second = |time: &str| time.get(..19).unwrap_or(time).replace('T', " ");
    let from = sections.iter().filter_map(|s| s.time.as_deref()).min();
    let until = sections.iter().filter_map(|s| s.until.as_deref()).max();
    if let (Some(from), Some(until)) = (from, until) {
        parts.push(format!("{} to {} UTC", second(from), second(until)));
    }
    parts.push(format!("{} traced", duration(found.report.summary.duration_ns)));
    crate::text::visible(&parts.join(" · "))
}

fn figure(out: &mut String, name: &str, value: &str, more: &str) {
    let _ = writeln!(
        out,
        "<div><dt>{}</dt><dd>{}<small>{}</small></dd></div>",
        escaped(name),
        escaped(value),
        escaped(more)
    );
}

fn short(out: &mut String, found: &Found) {
    out.push_str("<section id=\"short\" aria-labelledby=\"short-h\">\n");
    out.push_str("<h2 id=\"short-h\">In short</h2>\n");
    lost(out, found);
    figures(out, found);
    if found.of == "profile" || !found.profile.forks.is_empty() {
        answers(out, found);
    }
    out.push_str("</section>\n");
}

/// What is missing stands before what is there.
fn lost(out: &mut String, found: &Found) {
    let (lost, told) = (found.report.summary.lost, found.report.losses_told());
    if lost.total() > 0 {
        let _ = writeln!(
            out,
            "<p class=\"warn\"><strong>{}{} lost</strong> (kernel {}, decode {}, output {}): {}tables \
             of processes and forks have gaps.</p>",
            if told { "" } else { "At least " },
            plural(lost.total(), "record"),
            count(lost.kernel),
            count(lost.decode),
            count(lost.sink),
            if told { "totals and percentiles are the kernel's and whole, but " } else { "" }
        );
    } else if !told {
        out.push_str(
            "<p class=\"warn\"><strong>Losses unknown</strong>: a recording has no summary, which \
             would say what was lost.</p>\n",
        );
    }
}

/// The questions that people have, and what the figures answer.
fn answers(out: &mut String, found: &Found) {
    let profile = &found.profile;
    let (name, _) = words::who(profile);
    out.push_str("<dl class=\"answers\">\n");
    let mut answer = |question: &str, html: &str| {
        let _ = writeln!(out, "<dt>{}</dt><dd>{html}</dd>", escaped(question));
    };
    answer(
        &format!("How long did {name} stand still, and those who wait for it?"),
        &escaped(&words::headline(profile, &name, size)),
    );
    if profile.forks.is_empty() {
        list(out, profile);
        out.push_str("</dl>\n");
        return;
    }
    answer("Why?", &escaped(&why(profile)));
    let known = matches!(profile.cost, Answer::Known(_)) || found.of == "profile";
    let at = profile.forecast.clone().unwrap_or_else(|| forecast(profile, USUAL));
    if known {
        answer(
            &format!("What will it be at {}?", size(at.size_bytes)),
            &format!("{}<br>{}", sentence(&words::stall(&at)), sentence(&words::copied(&at))),
        );
    }
    if let Some(room) = &profile.headroom {
        answer("Is there room?", &sentence(&words::headroom(room)));
    }
    list(out, profile);
    out.push_str("</dl>\n");
}

/// What should be changed.
fn list(out: &mut String, profile: &Profile) {
    if profile.advice.is_empty() && profile.forks.is_empty() {
        return;
    }
    out.push_str("<dt>What should I change?</dt><dd>");
    if profile.advice.is_empty() {
        out.push_str("Nothing stands out: no rule of advice applies to these figures.");
    } else {
        out.push_str("<ul>");
        for one in &profile.advice {
            let _ = write!(out, "<li>{}</li>", sentence(&one.text));
        }
        out.push_str("</ul>");
    }
    out.push_str("</dd>\n");
}

/// Words of ours, perhaps with a name in them, as a sentence.
fn sentence(words: &str) -> String {
    let mut text = text(words);
    if let Some(first) = text.get(..1).map(str::to_uppercase) {
        text.replace_range(..1, &first);
    }
    if !text.ends_with('.') {
        text.push('.');
    }
    text
}

/// Of a size.
fn forecast(profile: &Profile, size: u64) -> crate::record::profile::Forecast {
    cost::forecast(size, &profile.cost, &profile.forks)
}

/// What the call's time went into.
fn why(profile: &Profile) -> String {
    let median = |of: fn(&crate::record::profile::Fork) -> Option<u64>| {
        cost::percentiles(profile.forks.iter().filter_map(of).collect()).map(|all| all.p50_ns)
    };
    let mut parts = Vec::new();
    let call = profile.call.map(|call| call.p50_ns);
    if let (Some(call), Some(copy)) = (call, profile.copy.map(|copy| copy.p50_ns))
        && call > 0
    {
        parts.push(format!(
            "{:.0} % of the call ({} of {}, p50) copied the parent's address space, during which \
             the parent does nothing else.",
            (copy as f64 * 100.0 / call as f64).min(100.0),
            duration(copy),
            duration(call)
        ));
    }
    let memory = median(|fork| fork.parent_rss_bytes);
    let tables = median(|fork| fork.parent_page_table_bytes);
    match (memory, tables) {
        (Some(memory), Some(tables)) => parts.push(format!(
            "It had {} of memory and {} of page tables, which a fork copies.",
            size(memory),
            size(tables)
        )),
        (Some(memory), None) => parts.push(format!("It had {} of memory.", size(memory))),
        _ => {}
    }
    match &profile.cost {
        Answer::Known(_) => {
            parts.push(format!("That grows with memory: {}.", words::cost(&profile.cost)))
        }
        Answer::Refused { refused } => {
            parts.push(format!("How it grows with memory is not told: {refused}."));
        }
    }
    if let Some(copied) = median(|f| Some(f.parent_copied? + f.child_copied?)).filter(|n| *n > 0) {
        parts.push(format!(
            "After a fork every first write to a page copies it: {} (p50), {}.",
            plural(copied, "page"),
            size(copied * PAGE)
        ));
    }
    parts.join(" ")
}

fn figures(out: &mut String, found: &Found) {
    let summary = &found.report.summary;
    let counters = &summary.counters;
    out.push_str("<dl class=\"figures\">\n");
    if let Some(spawns) = &counters.spawns {
        let all: u64 = spawns.values().fold(0, |sum, n| sum.saturating_add(*n));
        let mut most: Vec<_> = spawns.iter().filter(|(_, n)| **n > 0).collect();
        most.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
        let most: Vec<String> =
            most.iter().take(3).map(|(how, n)| format!("{} {how}", count(**n))).collect();
        figure(out, "Spawns", &count(all), &crate::text::visible(&most.join(", ")));
    }
    let failed = |n: Option<u64>| n.map_or_else(String::new, |n| format!("{} failed", count(n)));
    if let Some(execs) = counters.execs {
        figure(out, "Execs", &count(execs), &failed(counters.exec_failures));
    }
    if let Some(n) = counters.spawn_failures.filter(|n| *n > 0) {
        figure(out, "Failed calls", &count(n), "to make a process or thread");
    }
    let calls = &summary.histograms.spawn_latency;
    let longest = calls.iter().max_by_key(|(_, of)| of.max_ns);
    if let Some((how, of)) = longest {
        let how = format!("by {how}, p99 {}", duration(of.p99_ns));
        figure(out, "Longest call", &duration(of.max_ns), &crate::text::visible(&how));
    }
    if let (Some(faults), Some(copied)) = (counters.cow_faults, counters.cow_copied) {
        let more = format!("{}, {}", plural(copied, "page"), plural(faults, "fault"));
        figure(out, "Copied on write", &size(copied.saturating_mul(PAGE)), &more);
    }
    let lost = summary.lost.total();
    let (value, more) = match (lost, found.report.losses_told()) {
        (0, true) => ("0".into(), "nothing is missing"),
        (0, false) => ("–".into(), "not known, see above"),
        (n, _) => (count(n), "see above"),
    };
    figure(out, "Records lost", &value, more);
    out.push_str("</dl>\n");
}

fn latency(out: &mut String, found: &Found) {
    out.push_str(
        "<section id=\"latency\" aria-labelledby=\"latency-h\">\n\
         <h2 id=\"latency-h\">Latencies</h2>\n",
    );
    let all = &found.report.summary.histograms;
    let calls = plots::by_mechanism(&all.spawn_latency);
    let what = "How long creating calls took, entry to return";
    plots::percentiles("calls", "Creating calls by mechanism", what, &calls).render(out);
    let faults = plots::by_mechanism(&all.cow_fault);
    let what = "How long copy-on-write faults took, by who wrote";
    plots::percentiles("faults", "Copy-on-write faults by role", what, &faults).render(out);
    let table = distributions(found);
    if !table.rows.is_empty() {
        out.push_str(
            "<p class=\"dim\">Percentiles and the longest are upper edges of buckets at most 0.8 % \
             wide; what is said of a single fork is exact.</p>\n",
        );
    }
    table.render(out);
    out.push_str("</section>\n");
}

/// Every distribution of the summary.
fn distributions(found: &Found) -> Table {
    let all = &found.report.summary.histograms;
    let mut rows: Vec<(String, &Distribution)> = Vec::new();
    for (what, by) in [
        ("call", &all.spawn_latency),
        ("of it frozen", &all.blocked),
        ("child's first run", &all.start_delay),
        ("COW fault by", &all.cow_fault),
    ] {
        let by = plots::by_mechanism(by).into_iter();
        rows.extend(by.map(|(label, of)| match what {
            "COW fault by" => (format!("{what} {label}"), of),
            _ => (format!("{label}: {what}"), of),
        }));
    }
    for (what, of) in [
        ("address space copied", &all.copy),
        ("exec", &all.exec_latency),
        ("spawn to exec", &all.since_spawn),
        ("process lifetime", &all.lifetime),
    ] {
        rows.extend(of.iter().map(|of| (what.to_string(), of)));
    }
    Table {
        id: "distributions",
        caption: "Percentiles",
        columns: columns([
            ("what", "what", Unit::Text),
            ("count", "count", Unit::Count),
            ("p50", "p50_ns", Unit::Ns),
            ("p90", "p90_ns", Unit::Ns),
            ("p99", "p99_ns", Unit::Ns),
            ("p99.9", "p999_ns", Unit::Ns),
            ("longest", "max_ns", Unit::Ns),
        ]),
        rows: rows
            .into_iter()
            .map(|(what, d)| {
                let mut row = vec![Cell::from(what)];
                let values = [d.count, d.p50_ns, d.p90_ns, d.p99_ns, d.p999_ns, d.max_ns];
                row.extend(values.map(Cell::from));
                row
            })
            .collect(),
        left_out: 0,
    }
}

fn over_time(out: &mut String, found: &Found) {
    out.push_str(
        "<section id=\"time\" aria-labelledby=\"time-h\">\n<h2 id=\"time-h\">Over time</h2>\n",
    );
    match plots::timeline(found) {
        Some(plot) => plot.render(out),
        None => out.push_str("<p>Nothing was spawned.</p>\n"),
    }
    out.push_str("</section>\n");
}
