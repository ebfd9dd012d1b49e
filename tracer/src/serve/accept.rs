//! Which format a client wants.

/// What a scrape is answered in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// What Prometheus has always read.
    Classic,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
    /// Protobuf, with native histograms.
    Protobuf,
}

const MESSAGE: &str = "io.prometheus.client.metricfamily";

impl Format {
    /// The header's value.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; \
                 encoding=delimited"
            }
        }
    }

    /// What an `Accept` header asks for: the most wanted that there is, among equals the one named
    /// first; the classic text where nothing fits, as every exporter does.
    #[must_use]
    pub fn wanted(accept: &str) -> Self {
        let mut best = (Self::Classic, 0.0);
        for range in accept.to_ascii_lowercase().split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            let parameters: Vec<(&str, &str)> =
                parts.filter_map(|part| part.split_once('=')).collect();
            let is = |key: &str, allowed: &[&str]| {
                let value = parameters.iter().find(|(its, _)| its.trim() == key);
                value.is_none_or(|(_, value)| allowed.contains(&value.trim().trim_matches('"')))
            };
            let has = |key: &str| parameters.iter().any(|(its, _)| its.trim() == key);
            let format = match media {
                "application/vnd.google.protobuf"
                    if has("proto")
                        && is("proto", &[MESSAGE])
                        && is("encoding", &["delimited"]) =>
                {
                    Self::Protobuf
                }
                "application/openmetrics-text" if is("version", &["1.0.0"]) => Self::OpenMetrics,
                "text/plain" if is("version", &["0.0.4"]) => Self::Classic,
                "*/*" | "text/*" => Self::Classic,
                _ => continue,
            };
            let quality = parameters.iter().find(|(key, _)| key.trim() == "q");
            let quality = quality.map_or(1.0, |(_, q)| q.trim().parse().unwrap_or(0.0));
            if quality > best.1 {
                best = (format, quality);
            }
        }
        best.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_what_they_want_most() {
        const PROTOBUF: &str = "application/vnd.google.protobuf;\
                                proto=io.prometheus.client.MetricFamily;encoding=delimited";
        for (accept, expected) in [
            ("", Format::Classic),
            ("*/*", Format::Classic),
            ("text/html,application/xhtml+xml,*/*;q=0.8", Format::Classic),
            ("application/json", Format::Classic),
            ("application/openmetrics-text", Format::OpenMetrics),
            (
                "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.7",
                Format::Classic,
            ),
            // Prometheus 2.42, without and with native histograms.
            (
                "application/openmetrics-text;version=1.0.0,\
              application/openmetrics-text;version=0.0.1;q=0.75,\
              text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                Format::OpenMetrics,
            ),
            (
                "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;\
              encoding=delimited,application/openmetrics-text;version=1.0.0;q=0.8,\
              application/openmetrics-text;version=0.0.1;q=0.75,\
              text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                Format::Protobuf,
            ),
            (PROTOBUF, Format::Protobuf),
            // Another message, another encoding, or none wanted at all.
            ("application/vnd.google.protobuf;proto=other;encoding=delimited", Format::Classic),
            (
                "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;\
              encoding=text",
                Format::Classic,
            ),
            ("application/openmetrics-text;version=2.0.0", Format::Classic),
            ("application/openmetrics-text;q=0, text/plain;q=0.1", Format::Classic),
            ("APPLICATION/OpenMetrics-Text ; Version=\"1.0.0\" ; Q=1", Format::OpenMetrics),
            ("application/openmetrics-text;q=x", Format::Classic),
        ] {
            assert_eq!(Format::wanted(accept), expected, "{accept}");
        }
    }
}
