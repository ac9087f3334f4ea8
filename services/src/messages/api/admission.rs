//! Who is let in to a stream or a WebSocket, and where it begins.

use std::time::Duration;

use axum::http::HeaderMap;

use super::asked::Asked;
use super::secret_needed;
use crate::http::{Problem, ProblemKind};
use crate::messages::Messages;
use crate::messages::directory::Followed;
use crate::messages::position::Position;
use crate::messages::stream::begin;
use crate::messages::tickets::{Brought, Verdict};
use crate::messages::token::{self, Resumed};
use crate::platform::Entropy;

/// A request for a stream.
pub(super) struct Request {
    pub(super) name: String,
    pub(super) asked: Asked,
    pub(super) headers: HeaderMap,
    /// Its own name: see [`Brought`].
    pub(super) id: String,
    pub(super) came_ms: u64,
}

/// Whether a ticket is used up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    Opens,
    OnlyLooks,
}

/// Who was let in, and with what token.
pub(super) struct Admitted {
    pub(super) followed: Followed,
    resumed: Option<Resumed>,
}

/// Lets a request in by its secret or its ticket. A ticket is not used up by a request that is
/// refused for its resume token.
pub(super) async fn admit(
    messages: &Messages,
    request: &Request,
    admission: Admission,
) -> Result<Admitted, Problem> {
    let inner = &messages.0;
    let Request { name, asked: Asked { resume, ticket, .. }, headers, id, came_ms } = request;
    // Before a ticket is used up.
    request.asked.from()?;
    let followed = messages.find(name).await?;
    let subscription = &followed.kept().subscription;
    let resumed =
        resume.as_ref().map(|token| token::open(&inner.store.signer, subscription, token));
    let is_ours = !matches!(resumed, Some(Resumed::Invalid));
    if !messages.knows_secret(&followed, headers) {
        let Some(ticket) = ticket else { return Err(secret_needed(name)) };
        let brought = Brought { ticket, request: id, came_ms: *came_ms };
        // A token that has expired was given to a reader of this subscription all the same.
        let resumes = is_ours && resumed.is_some();
        let verdict = match admission {
            Admission::Opens if is_ours => {
                inner.tickets.redeem(subscription, &brought, resumes).await?
            }
            _ => inner.tickets.look(subscription, &brought, resumes).await?,
        };
        if let Verdict::Refused(why) = verdict {
            return Err(ticket_refused(name, why));
        }
    }
    match is_ours {
        true => Ok(Admitted { followed, resumed }),
        false => Err(invalid_token()),
    }
}

/// Where a stream begins, and why a token that was brought is no good any more.
pub(super) async fn first_position(
    messages: &Messages,
    request: &Request,
    admitted: &Admitted,
) -> Result<(Option<Position>, Option<String>), Problem> {
    match &admitted.resumed {
        Some(Resumed::At(position)) => return Ok((Some(position.clone()), None)),
        Some(Resumed::Expired(reason)) => return Ok((None, Some(reason.clone()))),
        Some(Resumed::Invalid) => return Err(invalid_token()),
        None => {}
    }
    let Some(from) = request.asked.from()? else { return Ok((None, None)) };
    let subscription = &admitted.followed.kept().subscription;
    let mut position = Position::fence(subscription);
    for realm in subscription.fence.keys() {
        if let Some(place) = begin(&messages.0.store, realm, &from).await? {
            position.replace(realm, place);
        }
    }
    Ok((Some(position), None))
}

pub(super) fn invalid_token() -> Problem {
    let detail = "the resume token is not one of this subscription: send the last id received \
                  unchanged, or none to begin at the start";
    Problem::new(ProblemKind::InvalidToken, detail)
}

fn ticket_refused(name: &str, why: &str) -> Problem {
    let detail = format!(
        "the ticket {why}: get a new one with POST /v1/subscriptions/{name}/tickets and the secret"
    );
    Problem::new(ProblemKind::Unauthorized, detail).field("ticket")
}

/// A number below `below`, which is not 0.
pub(super) fn jitter(entropy: &Entropy, below: u64) -> Result<u64, bus::Error> {
    Ok(u64::from_le_bytes(entropy.bytes()?) % below)
}

/// `age`, a tenth more or less.
pub(super) fn spread(entropy: &Entropy, age: Duration) -> Result<Duration, bus::Error> {
    let per_mille = 900 + u32::try_from(jitter(entropy, 201)?).unwrap_or(100);
    Ok(age.saturating_mul(per_mille) / 1000)
}
