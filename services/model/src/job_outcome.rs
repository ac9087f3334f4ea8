//! What a process that does one prefill and ends says at its end.

use serde::{Deserialize, Serialize};

use super::Report;

/// The exit code that means: it would end in the same way again, do not repeat it.
pub const EXIT_FINAL: u8 = 64;
/// Kubernetes keeps this much of a container's last words.
pub const MAX_OUTCOME_BYTES: usize = 4096;
/// What is left of a reason that does not fit.
const SHORT_REASON_BYTES: usize = 1024;

/// How a prefill ended in the process that did it. Keep stable: an operator reads the last words of
/// workers of other versions.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct JobOutcome {
    /// The rows of the prefill, where it is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// The class of the error and what to do (`source-stuck: ...`), where it is not complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// True where there was nothing to do: the prefill is not waited for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unneeded: bool,
    /// What was reported to the registration API and is durable there; left out where it does not
    /// fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<Report>,
}

impl JobOutcome {
    /// One that ended with this error.
    pub fn failed(reason: impl Into<String>) -> Self {
        Self { reason: Some(reason.into()), ..Self::default() }
    }

    /// One that ended with this report, which is durable.
    pub fn reported(report: Report) -> Self {
        let (rows, reason) = match &report {
            Report::PrefillDone { manifest, .. } => (Some(manifest.rows), None),
            Report::PrefillFailed { reason, .. } => (None, Some(reason.clone())),
            other => (None, Some(other.news())),
        };
        Self { rows, reason, unneeded: false, report: Some(report) }
    }

    /// One that found nothing to do.
    pub fn unneeded() -> Self {
        Self { unneeded: true, ..Self::default() }
    }

    /// As last words: JSON of at most [`MAX_OUTCOME_BYTES`]. What does not fit is left out, the
    /// report first, because it is durable elsewhere.
    pub fn to_last_words(&self) -> String {
        let whole = serde_json::to_string(self).unwrap_or_default();
        if whole.len() <= MAX_OUTCOME_BYTES {
            return whole;
        }
        let reason = self.reason.as_deref().map(|reason| shortened(reason).to_owned());
        let short = Self { report: None, reason, ..self.clone() };
        serde_json::to_string(&short).unwrap_or_default()
    }

    /// Reads last words back; `None` for those of something else.
    pub fn parse(last_words: &str) -> Option<Self> {
        serde_json::from_str(last_words.trim()).ok()
    }
}

fn shortened(text: &str) -> &str {
    let mut end = SHORT_REASON_BYTES.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Incarnation, Manifest, Realm, SubscriptionName};

    fn of() -> Incarnation {
        let name = SubscriptionName::new("people").unwrap();
        Incarnation { name, uid: String::from("00ff00ff00ff00ff"), generation: 2 }
    }

    #[test]
    fn a_report_comes_back_where_it_fits() {
        let manifest =
            Manifest { generation: 2, fence: [].into(), rows: 3, digest: "ab".repeat(32) };
        let done = JobOutcome::reported(Report::PrefillDone { of: of(), manifest });
        let read = JobOutcome::parse(&done.to_last_words()).unwrap();
        assert_eq!((read.rows, read.reason), (Some(3), None));
        assert!(matches!(read.report, Some(Report::PrefillDone { .. })));
        assert!(JobOutcome::parse("panicked at src/main.rs").is_none());
    }

    #[test]
    fn last_words_are_never_cut() {
        let realm = |n: u32| (Realm::new(format!("a-realm-with-a-long-name-{n}")).unwrap(), 1);
        let fence = (0..500).map(realm).collect();
        let manifest = Manifest { generation: 2, fence, rows: 3, digest: String::new() };
        let many = JobOutcome::reported(Report::PrefillDone { of: of(), manifest }).to_last_words();
        assert!(many.len() <= MAX_OUTCOME_BYTES);
        assert_eq!(JobOutcome::parse(&many).unwrap().rows, Some(3));

        let long = JobOutcome::failed("\u{1}ä".repeat(9000)).to_last_words();
        assert!(long.len() <= MAX_OUTCOME_BYTES, "{}", long.len());
        assert!(JobOutcome::parse(&long).unwrap().reason.unwrap().starts_with('\u{1}'));
    }
}
