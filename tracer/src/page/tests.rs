use super::{
    document::{self, CsvCell, csv_line, download, text},
    format::Html,
};
use crate::{
    cli::Sort,
    page::Gather,
    profile::{
        collect::Collector,
        of_records,
        samples::{exit, ledger, spawn},
    },
    record::{Counters, Histograms, LostTotals, Record, Summary, profile::Stack},
    recording,
    report::{Reported, Tables, merge::Merge},
    sink::Format as _,
};

#[test]
fn nothing_in_a_text_is_obeyed() {
    for (from, html, csv) in [
        ("a < b & c", "a &lt; b &amp; c", "a < b & c\n"),
        (
            "</script><script>\"'",
            "&lt;/script&gt;&lt;script&gt;&quot;&#39;",
            "\"</script><script>\"\"'\"\n",
        ),
        ("=cmd|'/c calc'!A0", "=cmd|&#39;/c calc&#39;!A0", "'=cmd|'/c calc'!A0\n"),
        ("@a,b", "@a,b", "\"'@a,b\"\n"),
        ("\x1b[2J\0", "\\u{1b}[2J\\u{0}", "\x1b[2J\0\n"),
        ("a\u{202e}b\nc", "a\\u{202e}b\\nc", "\"a\u{202e}b\nc\"\n"),
        ("naïve 名前", "naïve 名前", "naïve 名前\n"),
    ] {
        assert_eq!(text(from), html);
        let mut line = String::new();
        csv_line(&mut line, [CsvCell::Text(from)].into_iter());
        assert_eq!(line, csv);
    }
    let mut line = String::new();
    let cells = [CsvCell::Number(Some(-1.5)), CsvCell::Number(None), CsvCell::Text("x")];
    csv_line(&mut line, cells.into_iter());
    assert_eq!(line, "-1.5,,x\n");
}

#[test]
fn data_in_a_page_ends_no_element_and_no_attribute() {
    const EVIL: &str = "</script><!--\"'><img src=x onerror=alert(1)>&#x3c;";
    let mut out = String::new();
    document::json(&mut out, "figures", &serde_json::json!({ "a": EVIL }));
    assert_eq!((out.matches('<').count(), out.matches("</script>").count()), (2, 1), "{out}");
    let inner = &out[out.find('{').unwrap()..=out.rfind('}').unwrap()];
    assert_eq!(serde_json::from_str::<serde_json::Value>(inner).unwrap()["a"], EVIL);
    let link = download(EVIL, EVIL, "text/csv", EVIL);
    assert_eq!(link.matches('<').count(), 2, "{link}");
    assert_eq!(link.matches('"').count(), 4, "{link}");
}

/// A page of three forks of growing parents.
fn small() -> String {
    let mut records = Vec::new();
    for (n, child) in [10, 11, 12].into_iter().enumerate() {
        let mut fork = spawn(1, child, "fork", 0);
        fork.parent_rss_bytes = Some((n as u64 + 1) << 30);
        fork.latency_ns = Some((n as u64 + 1) * 25_000_000);
        records.push(Record::Spawn(fork));
        records.push(Record::Cow(ledger(1, child, 30, 2)));
        records.push(Record::Exit(exit(child)));
    }
    let mut collector = Collector::default();
    let mut html = Html::default();
    let mut out = Vec::new();
    for record in &records {
        collector.push(record);
        html.record(record, &mut out);
    }
    assert!(out.is_empty(), "the page comes at the end");
    let summary = Summary {
        duration_ns: 3_000_000_000,
        continues: false,
        counters: Counters::default(),
        lost: LostTotals { kernel: 7, decode: 0, sink: 0 },
        histograms: Histograms::default(),
    };
    let mut profile = of_records(collector.finish(true), &summary, None);
    let frames = |inner: &str| vec!["main".to_string(), inner.to_string()];
    profile.stacks = Some(
        [("<b>", 60), ("b", 36)]
            .map(|(inner, copied)| Stack {
                comm: "redis".into(),
                frames: frames(inner),
                faults: copied,
                copied,
                timed_ns: 1,
            })
            .into(),
    );
    html.record(&Record::Summary(Box::new(summary)), &mut out);
    html.record(&Record::Profile(Box::new(profile)), &mut out);
    String::from_utf8(out).unwrap()
}

/// Headings and captions, in order.
fn outline(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    for part in page.split('<').skip(1) {
        let Some((tag, text)) = part.split_once('>') else { continue };
        let name = tag.split(' ').next().unwrap_or_default();
        if matches!(name, "h1" | "h2" | "h3" | "dt" | "caption") {
            found.push(format!("{name} {}", text.trim()));
        }
    }
    found
}

#[test]
fn what_a_reader_came_for_is_first_and_how_it_was_measured_last() {
    let page = small();
    let expected = [
        "h1 What forks cost redis[1]",
        "h2 In short",
        "dt Records lost",
        "dt How long did redis stand still, and those who wait for it?",
        "dt Why?",
        "dt What will it be at 32 GiB?",
        "dt What should I change?",
        "h2 Latencies",
        "h2 Forks",
        "h3 Fork&#39;s time by the parent&#39;s memory",
        "caption Forecast by the parent&#39;s memory",
        "h3 Copied on write after each fork",
        "caption Each fork",
        "h3 Who paid for the copies",
        "h2 Over time",
        "h3 Spawns over time",
        "h2 Who",
        "caption Who spawned",
        "caption What ran",
        "caption Processes that spawned",
        "h2 How it was measured",
        "caption Recordings",
    ];
    assert_eq!(outline(&page), expected);
    for words in [
        "7 records lost",
        "A fork froze redis for 50.0 ms (p50; worst 75.0 ms)",
        "25.00 ms per GiB of memory",
        "&lt;b&gt;: 60 pages, 62.5 %",
    ] {
        assert!(page.contains(words), "{words} in {page}");
    }
    for element in ["table", "section", "svg", "tr", "td", "th", "ul", "dl", "figure", "main"] {
        let opened = page.matches(&format!("<{element}>")).count()
            + page.matches(&format!("<{element} ")).count();
        assert_eq!(opened, page.matches(&format!("</{element}>")).count(), "{element}");
    }
    // Nothing is fetched, nothing but our own is obeyed.
    let elsewhere = page.replace("http://www.w3.org/2000/svg", "");
    for outside in ["http://", "https://", "src=", "@import", "url(", " style=", " onload="] {
        assert!(!elsewhere.contains(outside), "{outside}");
    }
    for (content, kind) in [(document::STYLE, "style"), (document::SCRIPT, "script")] {
        assert!(page.contains(&format!("<{kind}>{content}</{kind}>")));
        assert!(page.contains(&document::hash(content)));
    }
}

#[test]
fn a_page_of_very_much_is_cut_and_says_so() {
    let mut html = Html::default();
    let mut out = Vec::new();
    let mut collector = Collector::default();
    for n in 0..4000 {
        let record = Record::Spawn(spawn(1 + n % 700, 10_000 + n, "fork", 0));
        html.record(&record, &mut out);
        collector.push(&record);
    }
    let summary = Summary {
        duration_ns: 1,
        continues: false,
        counters: Counters::default(),
        lost: LostTotals::default(),
        histograms: Histograms::default(),
    };
    let mut profile = of_records(collector.finish(true), &summary, None);
    profile.stacks = Some(
        (0..500)
            .map(|n| Stack {
                comm: format!("{n}"),
                frames: vec![format!("<{}>{n}", "deep".repeat(100)); 60],
                faults: 1,
                copied: 1 + n,
                timed_ns: 1,
            })
            .collect(),
    );
    html.record(&Record::Profile(Box::new(profile)), &mut out);
    let page = String::from_utf8(out).unwrap();
    assert!(page.len() < super::MOST_BYTES, "{}", page.len());
    assert!(page.contains("3,800 more rows left out here"), "{}", page.len());
    assert!(page.contains("\"left_out\":{\"profile.forks\":"));
}

/// A page of recordings as `report` makes it.
fn of_recordings(all: &[&[String]]) -> String {
    let (mut merge, mut tables, mut page) = (Merge::default(), Tables::new(&[]), Gather::default());
    for line in all.iter().flat_map(|lines| lines.iter()) {
        let entry = recording::parse(line.as_bytes()).unwrap().unwrap();
        page.take(&entry);
        tables.take(&entry);
        merge.take("one", &entry).unwrap();
    }
    merge.close();
    super::render(&page.of_report(Reported::new(merge, &[], tables, &[], (20, Sort::Spawns))))
}

#[test]
fn a_page_is_of_all_the_time_that_was_traced_and_knows_when_it_was_cut_off() {
    let golden = include_str!("../../tests/golden/records.ndjson");
    let find = |kind: &str| {
        let start = format!("{{\"type\":\"{kind}\"");
        golden.lines().find(|line| line.starts_with(&start)).unwrap().to_string()
    };
    // The header is of 12:00:00, the spawn 10 ms later, and tracing went on for 12.4 s.
    let (header, spawn, summary) = (find("header"), find("spawn"), find("summary"));
    let whole = [header.clone(), spawn.clone(), summary.clone()];
    let page = of_recordings(&[&whole]);
    assert!(page.contains("2026-11-22 12:00:00 to 2026-11-22 12:00:12 UTC · 12.4 s traced"));
    assert!(!page.contains("At least ") && !page.contains("Losses unknown"));
    // One family of units.
    assert!(page.contains("<dd>10 MiB<small>") && !page.contains(" MB") && !page.contains(" kB"));
    let csv = |page: &str| {
        let (_, rest) = page.split_once("download=\"timeline.csv\" href=\"data:text/csv").unwrap();
        rest[..rest.find('"').unwrap()].to_string()
    };
    let points = csv(&page);
    assert!(points.contains("fork,0,") && points.contains("fork,12400000000,0"), "{points}");

    let later: Vec<String> = whole.iter().map(|line| line.replace("T12:00:", "T12:05:")).collect();
    let page = of_recordings(&[&whole, &later]);
    assert!(page.contains("12:00:00 to 2026-11-22 12:05:12 UTC · 24.8 s traced"));

    let page = of_recordings(&[&[header, spawn]]);
    assert!(page.contains("12:00:00 to 2026-11-22 12:00:00 UTC · 10.0 ms traced"));
    assert!(page.contains("Losses unknown") && !page.contains("nothing is missing"));
}
