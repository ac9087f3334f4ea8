//! A row of the replica, and which of two updates it is made of.

use serde::{Deserialize, Serialize};

use super::timestamp::Moment;
use super::update::Profile;

/// What the replica keeps of a patient. Keep stable: it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The profile; its `UpdatedAt` is in UTC with nine digits.
    #[serde(flatten)]
    pub profile: Profile,
    /// Where in the stream it stands, which decides between updates of one moment.
    #[serde(rename = "Sequence")]
    pub sequence: u64,
}

impl Row {
    /// The row that an update at this place would make.
    pub fn new(profile: Profile, updated_at: Moment, sequence: u64) -> Self {
        Self { profile: Profile { updated_at: updated_at.to_string(), ..profile }, sequence }
    }

    /// The later of the two; `None` where what stands is not older, so that nothing is written. It
    /// does not matter in which order updates are merged, nor how often.
    pub fn merged(stands: Option<&Self>, update: &Self) -> Option<Self> {
        match stands {
            Some(stands) if stands.version() >= update.version() => None,
            _ => Some(update.clone()),
        }
    }

    /// As text such times have the order of time.
    fn version(&self) -> (&str, u64) {
        (&self.profile.updated_at, self.sequence)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn profile(name: &str, is_pregnant: bool) -> Profile {
        Profile {
            patient_id: String::from("1"),
            first_name: name.to_owned(),
            last_name: String::from("Doe"),
            is_pregnant,
            sex: String::new(),
            updated_at: String::new(),
        }
    }

    /// An update as it stands in the stream.
    fn row(at: &str, sequence: u64) -> Row {
        let moment = Moment::read(at).unwrap();
        Row::new(profile(&format!("at {sequence}"), sequence.is_multiple_of(2)), moment, sequence)
    }

    fn replica(arriving: impl IntoIterator<Item = Row>) -> Option<Row> {
        arriving
            .into_iter()
            .fold(None, |stands, update| Row::merged(stands.as_ref(), &update).or(stands))
    }

    /// Every order of arrival.
    fn orders<T: Clone>(of: &[T]) -> Vec<Vec<T>> {
        let Some((first, rest)) = of.split_first() else { return vec![Vec::new()] };
        let mut all = Vec::new();
        for others in orders(rest) {
            for at in 0..=others.len() {
                let mut order = others.clone();
                order.insert(at, first.clone());
                all.push(order);
            }
        }
        all
    }

    #[test]
    fn both_updates_of_the_document_end_in_the_later_one_in_either_order() {
        let first = row("2006-01-02T15:00:00.000000000Z10:00", 1);
        let second = row("2006-01-02T15:00:00.500000000Z10:00", 2);
        for order in orders(&[first.clone(), second.clone()]) {
            assert_eq!(replica(order), Some(second.clone()));
        }
        // Also where the later one stands earlier in the stream, in another partition for example.
        let (late, early) =
            (row("2006-01-02T15:00:00.5Z10:00", 1), row("2006-01-02T15:00:00Z10:00", 2));
        for order in orders(&[late.clone(), early]) {
            assert_eq!(replica(order), Some(late.clone()));
        }
    }

    #[test]
    fn of_one_moment_the_one_further_in_the_stream_stands() {
        // The same moment, written with two offsets.
        let rows = [row("2006-01-02T15:00:00Z10:00", 3), row("2006-01-02T05:00:00Z", 4)];
        for order in orders(&rows) {
            assert_eq!(replica(order).unwrap().sequence, 4);
        }
    }

    #[test]
    fn a_row_is_read_back_as_it_was_stored() {
        let row = row("2006-01-02T15:00:00Z10:00", 3);
        let json = serde_json::to_string(&row).unwrap();
        assert_eq!(
            json,
            "{\"PatientId\":\"1\",\"FirstName\":\"at 3\",\"LastName\":\"Doe\",\"IsPregnant\":\"False\",\
             \"UpdatedAt\":\"2006-01-02T05:00:00.000000000Z\",\"Sequence\":3}"
        );
        assert_eq!(serde_json::from_str::<Row>(&json).unwrap(), row);
    }

    proptest! {
        /// Any updates, few moments apart so that many are equal, in every order of arrival, some of
        /// them more than once, with a restart anywhere (what stands is all that is kept): one row.
        #[test]
        fn every_order_of_arrival_ends_in_the_same_row(
            nanos in prop::collection::vec(0..3u32, 1..6),
            repeated in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        ) {
            let rows: Vec<Row> = (1..).zip(&nanos)
                .map(|(sequence, nanos)| row(&format!("2006-01-02T15:00:00.00000000{nanos}Z10:00"), sequence))
                .collect();
            let last = rows.iter().max_by_key(|row| (row.profile.updated_at.clone(), row.sequence)).cloned();
            for order in orders(&rows) {
                let again = repeated.iter().map(|index| index.get(&order).clone());
                let arriving: Vec<_> = order.iter().cloned().chain(again).collect();
                prop_assert_eq!(replica(arriving), last.clone());
            }
        }
    }
}
