//! What the answers of the publish window are told apart by.
//!
//! A ticket is a place and how often an answer for that place stayed out. Only then does the place
//! get another one: the server keeps the routes of a thousand subjects at hand, and finding one for
//! each answer anew costs it more than storing a small message.

/// A bounded number of places, each with the ticket of who has it.
pub(super) struct Tickets {
    /// Of each place, how often an answer stayed out.
    rounds: Vec<u64>,
    free: Vec<usize>,
}

impl Tickets {
    pub(super) fn new(places: usize) -> Self {
        Self { rounds: vec![0; places], free: (0..places).rev().collect() }
    }

    /// A free place and its ticket, as long as there is one.
    pub(super) fn enter(&mut self) -> Option<(usize, u64)> {
        let place = self.free.pop()?;
        Some((place, self.of(place)?))
    }

    /// The place that a ticket is for; nothing for one from before.
    pub(super) fn place(&self, ticket: u64) -> Option<usize> {
        let place = usize::try_from(ticket.checked_rem(self.rounds.len() as u64)?).ok()?;
        (self.of(place)? == ticket).then_some(place)
    }

    /// The ticket of whoever has the place.
    pub(super) fn of(&self, place: usize) -> Option<u64> {
        let round = self.rounds.get(place)?;
        Some(round * self.rounds.len() as u64 + place as u64)
    }

    /// Frees a place. Whatever may still be answered for its ticket must not reach the next one
    /// there: `answered` says that nothing will be.
    pub(super) fn leave(&mut self, place: usize, answered: bool) {
        if let Some(round) = self.rounds.get_mut(place) {
            *round += u64::from(!answered);
            self.free.push(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_used_again_once_it_was_answered() {
        let mut tickets = Tickets::new(2);
        let (place, ticket) = tickets.enter().unwrap();
        let (_, other) = tickets.enter().unwrap();
        assert!(tickets.enter().is_none() && ticket != other);
        assert_eq!(tickets.place(ticket), Some(place));
        tickets.leave(place, true);
        assert_eq!(tickets.enter(), Some((place, ticket)));
    }

    #[test]
    fn a_late_answer_does_not_reach_who_has_the_place_now() {
        let mut tickets = Tickets::new(2);
        let (place, late) = tickets.enter().unwrap();
        tickets.leave(place, false);
        let (again, ticket) = tickets.enter().unwrap();
        assert!(again == place && ticket != late);
        assert_eq!((tickets.place(late), tickets.place(ticket)), (None, Some(place)));
        assert_eq!(tickets.place(u64::MAX), None);
    }
}
