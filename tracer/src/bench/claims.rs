//! Sentences from textbooks, and whether they hold here.
//!
//! A judge is a function from measured figures to a [`Ruling`], by thresholds that stand beside
//! it; it knows nothing of where the figures come from. `desk` fetches them: from experiments
//! that were made, from runs of the generator and of the probes.

use serde::{Serialize, Serializer};

use super::{Lab, Outcome, noise};
use crate::failure::{Failure, Why};

mod curves;
mod desk;
mod pages;
mod saves;
mod shared;
mod text;
mod verdict;

use self::desk::Desk;
pub use self::verdict::{Figures, Ruling, Verdict};

/// The experiments whose figures are needed.
pub const NEEDED: &[&str] = &["rss", "hotos", "cow", "vfork-frozen"];

/// A sentence, and how it is judged.
struct Claim {
    text: &'static str,
    /// Experiments by name, or what else was made for it.
    experiment: &'static str,
    judge: fn(&Desk<'_>) -> Result<Ruling, Failure>,
}

/// In the order of their numbers, which begin with 1.
const CLAIMS: [Claim; 15] = [
    Claim {
        text: "after fork both sides see the same pages until one writes",
        experiment: "cow, pages probe",
        judge: |desk| desk.same_until_written(),
    },
    Claim {
        text: "the page tables are copied: kilobytes to megabytes, growing with the parent",
        experiment: "tables probe",
        judge: |desk| desk.tables_copied(),
    },
    Claim {
        text: "vfork copies nothing and freezes the parent until exec or _exit",
        experiment: "vfork-frozen, kcmp and frozen probes",
        judge: |desk| desk.frozen(),
    },
    Claim {
        text: "vfork is 4–5 times faster than fork",
        experiment: "rss",
        judge: |desk| desk.four_to_five(),
    },
    Claim {
        text: "fork+exec is today as efficient as vfork+exec",
        experiment: "rss",
        judge: |desk| desk.as_efficient(),
    },
    Claim {
        text: "vfork's gain depends on the size of the parent's data",
        experiment: "rss",
        judge: |desk| desk.gain_depends(),
    },
    Claim {
        text: "fork, vfork, threads and posix_spawn are all clone underneath; its flags decide \
               what is shared",
        experiment: "traced flags, kcmp probe",
        judge: |desk| desk.all_clone(),
    },
    Claim {
        text: "thread creation does not depend on the parent's memory",
        experiment: "rss",
        judge: |desk| desk.threads_flat(),
    },
    Claim {
        text: "exec resets the address space and returns only on error",
        experiment: "exec probe",
        judge: |desk| desk.exec_resets(),
    },
    Claim {
        text: "posix_spawn costs like vfork+exec, not like fork+exec",
        experiment: "hotos",
        judge: |desk| desk.spawn_like_vfork(),
    },
    Claim {
        text: "a vfork child's writes are visible to its parent, a fork child's are not",
        experiment: "workload --child-writes",
        judge: |desk| desk.writes_seen(),
    },
    Claim {
        text: "for a background save like Redis's, fork is not lightweight",
        experiment: "a server, or snapshot",
        judge: |desk| desk.not_lightweight(),
    },
    Claim {
        text: "user-level (1:N) threads make no kernel task",
        experiment: "tasks probe",
        judge: |desk| desk.user_level(),
    },
    Claim {
        text: "rfork is Plan 9's; the nearest Linux call is clone or unshare with chosen flags",
        experiment: "rfork probe",
        judge: |desk| desk.plan9(),
    },
    Claim {
        text: "fork allocates and copies data, heap and stack at the call",
        experiment: "pages probe",
        judge: |desk| desk.copied_at_call(),
    },
];

/// A claim with its verdict.
#[derive(Clone, Debug, Serialize)]
pub struct Judged {
    /// From 1.
    pub number: usize,
    /// The sentence.
    pub claim: &'static str,
    /// What it was judged by.
    pub experiment: &'static str,
    /// Measured figures; the name ends in the unit.
    pub figures: Figures,
    /// The figures in words.
    pub evidence: String,
    /// In words.
    #[serde(serialize_with = "words")]
    pub verdict: Verdict,
    /// At some sizes at least up to `up_to_bytes`; null where it was not judged.
    pub holds: Option<bool>,
    /// Parents' memory up to which it holds, where it does not beyond.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub up_to_bytes: Option<u64>,
}

fn words<S: Serializer>(verdict: &Verdict, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&match verdict {
        Verdict::Unjudged(why) => format!("not judged: {why}"),
        verdict => verdict.words(),
    })
}

/// All sentences with their verdicts. Serialises to one JSON object with `"type":"claims"`.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename = "claims")]
pub struct Claims {
    /// The version of the JSON object.
    pub schema: u32,
    /// In the order of their numbers.
    pub claims: Vec<Judged>,
    /// What a reader has to know.
    pub notes: Vec<String>,
}

/// Judges by these outcomes; one whose experiment failed is not among them.
///
/// # Errors
/// When a signal comes.
pub fn run(lab: &Lab, outcomes: &[Outcome]) -> Result<Claims, Failure> {
    let desk = Desk::new(lab, outcomes);
    lab.progress.steps(CLAIMS.len());
    let mut claims = Vec::new();
    for (n, claim) in CLAIMS.iter().enumerate() {
        lab.progress.step(claim.text);
        lab.stopped()?;
        let ruling = match (claim.judge)(&desk) {
            Ok(ruling) => ruling,
            Err(failure) if failure.why == Why::Stopped => return Err(failure),
            Err(failure) => Ruling {
                figures: Figures::default(),
                evidence: String::new(),
                verdict: Verdict::Unjudged(failure.message),
            },
        };
        claims.push(judged(n + 1, claim, ruling));
    }
    let busy = outcomes.iter().filter(|outcome| noise::is_told(&outcome.notes));
    let busy: Vec<_> = busy.map(|outcome| outcome.name).collect();
    let note = (!busy.is_empty()).then(|| {
        format!(
            "others kept the CPUs busy during {}: times are longer than on an idle machine, and \
             vary more",
            busy.join(", ")
        )
    });
    Ok(Claims { schema: super::SCHEMA, claims, notes: note.into_iter().collect() })
}

fn judged(number: usize, claim: &Claim, ruling: Ruling) -> Judged {
    Judged {
        number,
        claim: claim.text,
        experiment: claim.experiment,
        figures: ruling.figures,
        evidence: ruling.evidence,
        holds: ruling.verdict.holds(),
        up_to_bytes: match ruling.verdict {
            Verdict::UpTo(bytes) | Verdict::Between(_, bytes) => Some(bytes as u64),
            _ => None,
        },
        verdict: ruling.verdict,
    }
}
