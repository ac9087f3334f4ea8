//! The history of a realm's log, and how a place in it is recognised.
//!
//! A sequence alone does not say what was read: a log that was deleted, lost its end or was put
//! back from a backup gives the same sequences to other events. Whoever keeps a place in a log
//! therefore keeps a [`Mark`]: the sequence, when the log took the message there, and the log's
//! [`Life`]. Before a place is used it is held against the log (`Store::check_mark`).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bus::StreamInfo;
use serde::{Deserialize, Serialize};

/// Which log of its name a log is: one that is deleted and made again has another life. It is
/// when the log was made, in nanoseconds since 1970, and 0 where that is not known (a log in a
/// folder of an earlier version).
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Life(u64);

/// A place in a realm's log: everything up to it was read. The kept form is in subscription
/// records and journals: keep stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Mark {
    /// The sequence of the last message that was read or passed by; 0 before the first.
    pub sequence: u64,
    /// When the log took it, in whole milliseconds since 1970; 0 where that is not known.
    #[serde(default)]
    time_ms: u64,
    /// The log's life; 0 where it is not known.
    #[serde(default)]
    life: Life,
}

/// What has become of the history before a [`Mark`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum History {
    /// It is the one that was read: go on behind the mark.
    Same,
    /// It is another: what was read may be gone, and what is there may not have been read.
    Changed {
        /// What was found, for people: a clause without a full stop.
        why: String,
    },
    /// It is the same log, but what follows the mark was removed from its beginning.
    Purged {
        /// Where the log begins now.
        first_sequence: u64,
    },
}

impl Mark {
    /// The place of a message: the life of its log, its sequence, and when the log took it.
    pub fn of(life: Life, sequence: u64, taken: SystemTime) -> Self {
        Self { sequence, time_ms: millis(taken), life }
    }

    /// Before the first message of a log.
    pub const fn start(life: Life) -> Self {
        Self { sequence: 0, time_ms: 0, life }
    }

    /// A sequence of which nothing else is known, as earlier versions kept it. All that can be
    /// noticed is that the log ends before it.
    pub const fn bare(sequence: u64) -> Self {
        Self { sequence, time_ms: 0, life: Life(0) }
    }

    /// The same place, known to be in this life of the log.
    #[must_use]
    pub const fn in_life(self, life: Life) -> Self {
        Self { life, ..self }
    }

    /// The same with a time of which only the milliseconds since 1970 are known.
    #[must_use]
    pub const fn at_ms(self, time_ms: u64) -> Self {
        Self { time_ms, ..self }
    }

    /// The life of the log that it is a place of.
    pub const fn life(&self) -> Life {
        self.life
    }

    /// When the log took the message there, milliseconds since 1970; 0 where that is not known.
    pub const fn time_ms(&self) -> u64 {
        self.time_ms
    }

    /// Holds the mark against a log. `there` is when the log took the message that it holds at the
    /// mark's sequence; `None` where it holds none.
    pub fn against(&self, log: &StreamInfo, there: Option<SystemTime>) -> History {
        let (sequence, last) = (self.sequence, log.last_sequence);
        if last < sequence {
            let why = format!("the log ends at {last}, and events up to {sequence} were read");
            return History::Changed { why };
        }
        if let Some(there) = there.filter(|_| self.time_ms != 0) {
            // The very message: whoever moved the log moved what was read with it.
            if millis(there) == self.time_ms {
                return History::Same;
            }
            let why = format!("event {sequence} is not the one that was read");
            return History::Changed { why };
        }
        let life = Life::of(log);
        if life != self.life && life.is_known() && self.life.is_known() {
            return History::Changed { why: String::from("the log was deleted and made again") };
        }
        if log.first_sequence > sequence + 1 {
            return History::Purged { first_sequence: log.first_sequence };
        }
        History::Same
    }
}

impl Life {
    /// The life of a log as it was looked at.
    pub fn of(log: &StreamInfo) -> Self {
        let since = log.created.and_then(|created| created.duration_since(UNIX_EPOCH).ok());
        Self(since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)))
    }

    const fn is_known(self) -> bool {
        self.0 != 0
    }
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use bus::StreamConfig;

    use super::*;

    /// A log may come from elsewhere with everything it held, as a mirror that takes over does.
    #[test]
    fn the_message_outweighs_the_life() {
        let taken = UNIX_EPOCH + Duration::from_micros(7_000_900);
        let config = StreamConfig::parse("events-r", &["events.r.*.*"]).unwrap();
        let created = Some(UNIX_EPOCH + Duration::from_nanos(5));
        let (messages, bytes, consumers) = (9, 9, 0);
        let log = StreamInfo {
            config,
            created,
            first_sequence: 1,
            last_sequence: 9,
            messages,
            bytes,
            consumers,
        };
        let mark = Mark::of(Life(4), 7, taken);
        assert_eq!(mark.against(&log, Some(taken)), History::Same);
        let later = taken + Duration::from_millis(1);
        assert!(matches!(mark.against(&log, Some(later)), History::Changed { .. }));
        assert!(matches!(mark.against(&log, None), History::Changed { .. }));
        assert_eq!(mark.in_life(Life(5)).against(&log, None), History::Same);
    }

    #[test]
    fn the_kept_form_is_stable() {
        let mark = Mark::of(Life(5), 7, UNIX_EPOCH + Duration::from_millis(1_700_000_000_123));
        let text = r#"{"sequence":7,"time_ms":1700000000123,"life":5}"#;
        assert_eq!(serde_json::to_string(&mark).unwrap(), text);
        assert_eq!(serde_json::from_str::<Mark>(text).unwrap(), mark);
        assert_eq!(serde_json::from_str::<Mark>(r#"{"sequence":7}"#).unwrap(), Mark::bare(7));
    }
}
