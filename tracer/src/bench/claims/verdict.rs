//! What a judge says.

use serde::ser::{Serialize, SerializeMap as _, Serializer};

use crate::bench::{Unit, text::number};

/// Measured figures by name, in the order they are shown; the name ends in the unit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures(Vec<(String, f64)>);

impl Figures {
    /// Adds one.
    pub fn add(&mut self, name: impl Into<String>, value: f64) -> &mut Self {
        self.0.push((name.into(), value));
        self
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<const N: usize> From<[(&str, f64); N]> for Figures {
    fn from(figures: [(&str, f64); N]) -> Self {
        Self(figures.map(|(name, value)| (name.to_owned(), value)).into())
    }
}

impl Serialize for Figures {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            // Counts and bytes as people write them.
            if value.fract() == 0.0 && value.abs() < 9e15 {
                map.serialize_entry(name, &(*value as i64))?;
            } else {
                map.serialize_entry(name, value)?;
            }
        }
        map.end()
    }
}

/// Whether a claim is true here.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It is, wherever it was looked at.
    Holds,
    /// It is for parents up to so many bytes, and not beyond.
    UpTo(f64),
    /// Only for parents between these sizes, in bytes: beyond it does not, and below only "at
    /// most" would.
    Between(f64, f64),
    /// It is not.
    Not,
    /// A figure could not be had, for this reason.
    Unjudged(String),
}

impl Verdict {
    /// The first three words of it, or so. Sizes to the next power of four: runs differ in the rest.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::Holds => "holds".into(),
            Self::UpTo(bytes) | Self::Between(_, bytes) => {
                format!("holds up to {}", number(rounded(*bytes), Unit::Bytes))
            }
            Self::Not => "does not hold here".into(),
            Self::Unjudged(_) => "not judged".into(),
        }
    }

    /// As JSON has it: true where it holds at some sizes.
    #[must_use]
    pub const fn holds(&self) -> Option<bool> {
        match self {
            Self::Holds | Self::UpTo(_) | Self::Between(..) => Some(true),
            Self::Not => Some(false),
            Self::Unjudged(_) => None,
        }
    }
}

/// To the next power of four below or above, whichever is nearer by ratio.
fn rounded(bytes: f64) -> f64 {
    (2.0 * (bytes.max(1.0).log2() / 2.0).round()).exp2()
}

/// A verdict, and what it rests on.
#[derive(Clone, Debug, PartialEq)]
pub struct Ruling {
    /// All that was measured for it.
    pub figures: Figures,
    /// The figures in words.
    pub evidence: String,
    /// By stated thresholds.
    pub verdict: Verdict,
}

impl Ruling {
    /// Holds, or does not.
    pub fn plain(holds: bool, figures: impl Into<Figures>, evidence: impl Into<String>) -> Self {
        let verdict = if holds { Verdict::Holds } else { Verdict::Not };
        Self { figures: figures.into(), evidence: evidence.into(), verdict }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_have_words() {
        for (verdict, words, holds) in [
            (Verdict::Holds, "holds", Some(true)),
            (Verdict::UpTo(50.0 * 1048576.0), "holds up to 64 MiB", Some(true)),
            (Verdict::UpTo(1.2e9), "holds up to 1 GiB", Some(true)),
            (Verdict::Between(3e7, 4e7), "holds up to 64 MiB", Some(true)),
            (Verdict::Not, "does not hold here", Some(false)),
            (Verdict::Unjudged("no tracer".into()), "not judged", None),
        ] {
            assert_eq!((verdict.words().as_str(), verdict.holds()), (words, holds));
        }
    }

    #[test]
    fn figures_keep_their_order() {
        let figures = Figures::from([("b_ns", 1.5), ("a_bytes", 4096.0)]);
        assert_eq!(serde_json::to_string(&figures).unwrap(), r#"{"b_ns":1.5,"a_bytes":4096}"#);
    }
}
