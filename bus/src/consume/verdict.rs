//! What a handler's word means for the message.

use std::time::Duration;

use crate::handler::Outcome;
use crate::message::Message;
use crate::name::StreamName;

/// What the loop does with a message after an attempt.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    Ack(Vec<(StreamName, Message)>),
    Again(Duration, String),
    GiveUp(String),
}

/// Decides. `ended` is what the handler returned or failed with, as text; `delay` the backoff
/// after this attempt; `max` the limit on attempts where the loop keeps it.
pub(super) fn judge(
    ended: Result<Outcome, String>,
    attempt: u32,
    max: Option<u32>,
    delay: Duration,
) -> Verdict {
    let (delay, why) = match ended {
        Ok(Outcome::Ack) => return Verdict::Ack(Vec::new()),
        Ok(Outcome::AckAnd(outputs)) => return Verdict::Ack(outputs),
        Ok(Outcome::Reject(reason)) => return Verdict::GiveUp(reason),
        Ok(Outcome::Retry(asked)) => (asked, String::from("the handler asked for a retry")),
        Err(failed) => (delay, failed),
    };
    match max {
        Some(max) if attempt >= max => {
            Verdict::GiveUp(format!("attempt {attempt} of {max} failed: {why}"))
        }
        _ => Verdict::Again(delay, why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_last_attempt_gives_up_and_says_why() {
        let failed = |attempt, max| judge(Err("no route".into()), attempt, max, SECOND);
        assert_eq!(failed(2, Some(3)), Verdict::Again(SECOND, "no route".into()));
        assert_eq!(failed(9, None), Verdict::Again(SECOND, "no route".into()));
        let given_up = Verdict::GiveUp("attempt 3 of 3 failed: no route".into());
        assert_eq!(failed(3, Some(3)), given_up);
    }

    #[test]
    fn a_handler_decides_before_the_limit_does() {
        let judge = |outcome| judge(Ok(outcome), 3, Some(3), SECOND);
        assert_eq!(judge(Outcome::Ack), Verdict::Ack(Vec::new()));
        assert_eq!(judge(Outcome::Reject("bad".into())), Verdict::GiveUp("bad".into()));
        assert!(matches!(judge(Outcome::Retry(SECOND)), Verdict::GiveUp(_)));
    }
}
