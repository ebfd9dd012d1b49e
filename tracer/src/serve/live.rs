//! The live page: what `/metrics` tells, for people. It is drawn in the browser from events that
//! are made while somebody looks, a second each, from the same families.

use std::{
    fmt::Write as _,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::{
    Response, StatusCode,
    body::Bytes,
    header::{self, HeaderName, HeaderValue},
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{
    desk::{Desk, Snapshot},
    http::{Answer, Content, plain},
    model::{Labels, Metrics},
};
use crate::page::document::{STYLE, hash};

const SCRIPT: &str = include_str!("live.js");
const BODY: &str = include_str!("live.html");
/// So long events come on a connection, which has ten seconds; then the browser asks again.
const LASTS: Duration = Duration::from_secs(7);
/// Between two of them.
const PERIOD: Duration = Duration::from_secs(1);

/// Whether a request was made to this machine, as far as it says: to an address, or to localhost.
/// Any other name may have been made to mean this address by somebody whose page it then reads.
#[must_use]
pub fn is_ours(host: Option<&str>) -> bool {
    let Some(host) = host else { return false };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

/// To whom this does not speak.
pub fn refused() -> Answer {
    let text = "the page is at the address itself: give that, or localhost, and no other name\n";
    plain(StatusCode::MISDIRECTED_REQUEST, text.into())
}

fn kept_to_itself(answer: &mut Answer) {
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
}

/// The page: its own style and script, and nothing but this server's events.
pub fn page() -> Answer {
    let mut out = String::from("<!doctype html>\n<html lang=\"en\">\n<head>\n");
    let _ = write!(
        out,
        "<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, \
         initial-scale=1\">\n<title>forkscope, live</title>\n<style>{STYLE}</style>\n</head>\n\
         <body>\n{BODY}<script>{SCRIPT}</script>\n</body>\n</html>\n"
    );
    let mut answer = Response::new(Content::from(out));
    let policy = format!(
        "default-src 'none'; style-src {}; script-src {}; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT)
    );
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    kept_to_itself(&mut answer);
    answer
}

/// A stream of events, as long as a connection lasts, for as many as find room.
pub fn events(desk: &Arc<Desk>) -> Answer {
    let Ok(permit) = Arc::clone(&desk.watchers).try_acquire_owned() else {
        let text = "too many are watching; close another page\n";
        return plain(StatusCode::SERVICE_UNAVAILABLE, text.into());
    };
    let (sender, receiver) = mpsc::channel(1);
    let desk = Arc::clone(desk);
    tokio::spawn(async move {
        let _permit = permit;
        let began = Instant::now();
        while began.elapsed() < LASTS {
            if let Some(snapshot) = desk.ask().await {
                let figures = crate::json::to_string(&figures(&snapshot, desk.began));
                let event = format!("retry: 500\ndata: {figures}\n\n");
                if sender.send(Bytes::from(event)).await.is_err() {
                    return;
                }
            }
            tokio::time::sleep(PERIOD).await;
        }
    });
    let mut answer = Response::new(Content::Events(receiver));
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    kept_to_itself(&mut answer);
    answer
}

fn labels(labels: &Labels) -> Value {
    labels.iter().map(|(name, value)| (*name, value.as_str())).collect::<Value>()
}

/// The families as JSON: counters as they are, histograms by their native buckets, which are 2.2 %
/// wide, each with its upper bound in seconds. What has another beginning counts anew.
fn figures(snapshot: &Snapshot, began: u64) -> Value {
    let families = snapshot.families.iter().map(|family| {
        let metrics: Vec<Value> = match &family.metrics {
            Metrics::Counters(all) => {
                all.iter().map(|(of, n)| json!({ "of": labels(of), "n": n })).collect()
            }
            Metrics::Infos(all) => all.iter().map(|of| json!({ "of": labels(of) })).collect(),
            Metrics::Histograms(all) => all
                .iter()
                .map(|(of, histogram)| {
                    let buckets: Vec<(f64, u64)> = histogram.native.bounds().collect();
                    json!({ "of": labels(of), "n": histogram.count, "sum": histogram.sum,
                            "buckets": buckets })
                })
                .collect(),
        };
        (family.name.trim_start_matches("forkscope_"), metrics)
    });
    json!({
        "since": began,
        "families": families.collect::<std::collections::BTreeMap<_, _>>(),
        "troubles": snapshot.troubles,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_or_localhost_is_ours() {
        for (host, ours) in [
            (Some("127.0.0.1:9464"), true),
            (Some("localhost:9464"), true),
            (Some("LOCALHOST"), true),
            (Some("[::1]:9464"), true),
            (Some("192.168.1.7"), true),
            (Some("evil.example:9464"), false),
            (Some("127.0.0.1.evil.example"), false),
            (Some("localhost.evil.example"), false),
            (Some("[evil]"), false),
            (Some(""), false),
            (None, false),
        ] {
            assert_eq!(is_ours(host), ours, "{host:?}");
        }
    }
}
