//! How many messages of a log match, without looking at each of them where that costs more.

use super::log::Log;
use crate::name::SubjectFilter;

/// How many messages held from sequence `from` on match one of `filters`, none of which overlap;
/// no filter means everything.
///
/// The costs are those of the messages from there on, or of the subjects that match, whichever are
/// fewer.
pub(super) fn count(log: &Log, filters: &[SubjectFilter], from: u64) -> u64 {
    let from = from.max(log.first_sequence());
    let ahead = (log.last_sequence() + 1).saturating_sub(from);
    if ahead > log.subjects() as u64 {
        return by_subject(log, filters, from);
    }
    let matches =
        |subject: &str| filters.is_empty() || filters.iter().any(|filter| filter.matches(subject));
    let held = (from..from + ahead).filter_map(|sequence| log.get(sequence));
    held.filter(|message| matches(message.subject().as_str())).count() as u64
}

fn by_subject(log: &Log, filters: &[SubjectFilter], from: u64) -> u64 {
    if filters.is_empty() && from <= log.first_sequence() {
        return log.messages();
    }
    let all = [SubjectFilter::all()];
    let filters = if filters.is_empty() { &all[..] } else { filters };
    let ahead = |sequences: &std::collections::VecDeque<u64>| {
        sequences.len() - sequences.partition_point(|sequence| *sequence < from)
    };
    let matching = filters.iter().flat_map(|filter| log.matching(filter));
    matching.map(|(_, sequences)| ahead(sequences) as u64).sum()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::super::journal::Journal;
    use super::*;
    use crate::message::Message;

    /// Both ways give the same, for every place in a log with holes.
    #[test]
    fn it_counts_what_a_walk_counts() {
        let mut log = Log::new(Journal::default());
        for n in 0..60_usize {
            let subject = format!("{}.{}", ["a", "b", "c"][n % 3], n % 7);
            log.append(Message::new(subject, "x").unwrap(), SystemTime::UNIX_EPOCH);
        }
        for gone in [1, 2, 17, 18, 19, 60] {
            assert!(log.remove(gone));
        }
        let filter = |text: &str| SubjectFilter::new(text).unwrap();
        let none: Vec<SubjectFilter> = Vec::new();
        for filters in [none, vec![filter("a.*")], vec![filter("a.3"), filter("b.>")]] {
            for from in 0..70 {
                let walked = (from..=log.last_sequence()).filter_map(|at| log.get(at));
                let walked = walked.filter(|m| {
                    let subject = m.subject().as_str();
                    filters.is_empty() || filters.iter().any(|f| f.matches(subject))
                });
                let walked = walked.count() as u64;
                assert_eq!(count(&log, &filters, from), walked, "{filters:?} from {from}");
                assert_eq!(by_subject(&log, &filters, from), walked, "{filters:?} from {from}");
            }
        }
    }
}
