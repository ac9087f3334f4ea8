//! The state machine of an order. It is pure: claims go in, stages come out.
//!
//! Each stage but the fourth is entered because somebody claims it: a payment was created, a
//! payment was made, a parcel was shipped. The claims arrive on topics of their own, so that no
//! backend keeps an order between them, and each may arrive more than once. The rules:
//!
//! - a claim of the stage that is next is **entered**;
//! - a claim of a later stage is early and is **held**; it is entered as soon as its turn comes;
//! - a claim of a stage that was entered, or that is held already, is **known** and changes nothing;
//! - an order whose payment was made is ready to ship at once: nobody else decides that.
//!
//! So an order never goes back, skips no stage and enters none twice, whatever arrives in whatever
//! order; and when every claim has arrived once, it is delivered.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::stage::Stage;

/// Where an order stands, and what was claimed too early. Persisted: keep the JSON stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journey {
    stage: Stage,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    held: BTreeSet<Stage>,
}

/// What came of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// These stages were entered, in this order: at least one.
    Entered(Vec<Stage>),
    /// It is early, and waits.
    Held,
    /// It changes nothing.
    Known,
}

impl Journey {
    /// A new order's: it is created.
    pub fn begin() -> Self {
        Self { stage: Stage::OrderCreated, held: BTreeSet::new() }
    }

    /// The stage that was entered last.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// The stages that were claimed too early, first to last.
    pub fn held(&self) -> impl Iterator<Item = Stage> + '_ {
        self.held.iter().copied()
    }

    /// Takes a claim that `claimed` is reached, by the rules above.
    pub fn take(&mut self, claimed: Stage) -> Verdict {
        if claimed <= self.stage || !self.held.insert(claimed) {
            return Verdict::Known;
        }
        let mut entered = Vec::new();
        while let Some(next) = self.stage.next().filter(|next| self.is_due(*next)) {
            self.held.remove(&next);
            self.stage = next;
            entered.push(next);
        }
        match entered.is_empty() {
            true => Verdict::Held,
            false => Verdict::Entered(entered),
        }
    }

    fn is_due(&self, next: Stage) -> bool {
        next == Stage::ReadyToShip || self.held.contains(&next)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What others claim; the first and the fourth stage follow by themselves.
    const CLAIMS: [Stage; 5] = [
        Stage::PaymentCreated,
        Stage::PaymentMade,
        Stage::Shipping,
        Stage::Shipped,
        Stage::Delivered,
    ];

    #[test]
    fn the_way_of_the_book() {
        let mut journey = Journey::begin();
        use Stage::*;
        for (claim, entered) in [
            (PaymentCreated, vec![PaymentCreated]),
            (PaymentMade, vec![PaymentMade, ReadyToShip]),
            (Shipping, vec![Shipping]),
            (Shipped, vec![Shipped]),
            (Delivered, vec![Delivered]),
        ] {
            assert_eq!(journey.take(claim), Verdict::Entered(entered));
            assert_eq!(journey.take(claim), Verdict::Known);
        }
    }

    #[test]
    fn an_early_claim_waits_for_its_turn() {
        let mut journey = Journey::begin();
        assert_eq!(journey.take(Stage::Delivered), Verdict::Held);
        assert_eq!(journey.take(Stage::PaymentMade), Verdict::Held);
        assert_eq!(journey.take(Stage::PaymentMade), Verdict::Known);
        assert_eq!(journey.held().collect::<Vec<_>>(), [Stage::PaymentMade, Stage::Delivered]);
        let entered = vec![Stage::PaymentCreated, Stage::PaymentMade, Stage::ReadyToShip];
        assert_eq!(journey.take(Stage::PaymentCreated), Verdict::Entered(entered));
    }

    #[test]
    fn the_persisted_form_is_stable() {
        let mut journey = Journey::begin();
        journey.take(Stage::Shipped);
        let json = r#"{"stage":"orderCreated","held":["shipped"]}"#;
        assert_eq!(serde_json::to_string(&journey).unwrap(), json);
        assert_eq!(serde_json::from_str::<Journey>(json).unwrap(), journey);
    }

    fn any_stage() -> impl Strategy<Value = Stage> {
        prop::sample::select(Stage::ALL.to_vec())
    }

    proptest! {
        #[test]
        fn whatever_is_claimed_it_goes_forward_stage_by_stage(
            claims in prop::collection::vec(any_stage(), 0..40),
        ) {
            let (mut journey, mut walked) = (Journey::begin(), vec![Stage::OrderCreated]);
            for claim in claims {
                let before = journey.clone();
                match journey.take(claim) {
                    Verdict::Entered(stages) => walked.extend(stages),
                    Verdict::Held => {
                        prop_assert_eq!(journey.stage(), before.stage());
                        prop_assert!(claim > journey.stage());
                    }
                    Verdict::Known => prop_assert_eq!(&journey, &before),
                }
                prop_assert_eq!(walked.last(), Some(&journey.stage()));
                // Neither a stage that was entered nor the next one ever waits.
                let next = journey.stage().next();
                prop_assert!(journey.held().all(|held| Some(held) > next));
            }
            prop_assert_eq!(&walked[..], &Stage::ALL[..walked.len()]);
        }

        #[test]
        fn every_claim_once_in_any_order_with_repeats_ends_delivered(
            shuffled in Just(CLAIMS.to_vec()).prop_shuffle(),
            repeats in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..20),
        ) {
            let mut claims = shuffled;
            for (which, place) in repeats {
                let claim = claims[which.index(claims.len())];
                claims.insert(place.index(claims.len() + 1), claim);
            }
            let (mut journey, mut walked) = (Journey::begin(), vec![Stage::OrderCreated]);
            for claim in claims {
                if let Verdict::Entered(stages) = journey.take(claim) {
                    walked.extend(stages);
                }
            }
            prop_assert_eq!(walked, Stage::ALL);
            prop_assert_eq!(journey.held().count(), 0);
        }
    }
}
