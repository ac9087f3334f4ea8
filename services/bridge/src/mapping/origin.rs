//! Where an event was before: by which loops end, and by which a record finds its form again.

use std::fmt;
use std::str::FromStr;

use bus::Headers;

use super::record::Place;

/// On an event: the record that it was.
pub(super) const KAFKA: &str = "kafka-origin";
/// On both sides: every place before the last, oldest first.
pub(super) const VISITED: &str = "lockgate-origin";
/// On a record: the sequence of the event that it was.
pub(super) const SEQUENCE: &str = "lockgate-sequence";

/// How a record carried its event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Not as a CloudEvent, or as one in structured mode: headers are headers.
    Plain,
    /// The same, with a timestamp that became `ce-time`.
    Timed,
    /// As a CloudEvent in binary mode.
    Binary,
}

/// The record that an event was: `<form> <cluster> <topic> <topic id> <partition> <offset> <ms>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub(super) form: Form,
    /// The id of the Kafka cluster.
    pub cluster: String,
    /// Where it was there.
    pub place: Place,
    /// Its timestamp, milliseconds since 1970.
    pub timestamp: Option<i64>,
}

impl Origin {
    /// The origin that an event tells, if it was a record and this crate carried it.
    pub fn of(headers: &Headers) -> Option<Self> {
        headers.get(KAFKA)?.parse().ok()
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let form = match self.form {
            Form::Plain => "plain",
            Form::Timed => "timed",
            Form::Binary => "binary",
        };
        let Place { topic, topic_id, partition, offset } = &self.place;
        write!(f, "{form} {} {topic} {topic_id} {partition} {offset} ", self.cluster)?;
        match self.timestamp {
            Some(ms) => write!(f, "{ms}"),
            None => f.write_str("-"),
        }
    }
}

impl FromStr for Origin {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let words: Vec<&str> = text.split(' ').collect();
        let [form, cluster, topic, topic_id, partition, offset, ms] = words.as_slice() else {
            return Err(());
        };
        Ok(Self {
            form: match *form {
                "plain" => Form::Plain,
                "timed" => Form::Timed,
                "binary" => Form::Binary,
                _ => return Err(()),
            },
            cluster: (*cluster).to_owned(),
            place: Place {
                topic: (*topic).to_owned(),
                topic_id: (*topic_id).to_owned(),
                partition: partition.parse().map_err(drop)?,
                offset: offset.parse().map_err(drop)?,
            },
            timestamp: match *ms {
                "-" => None,
                ms => Some(ms.parse().map_err(drop)?),
            },
        })
    }
}

/// A topic of Kafka as a place that an event was in.
pub fn kafka_place(cluster: &str, topic: &str) -> String {
    format!("kafka:{cluster}/{topic}")
}

/// A topic of a log as such a place. `life` tells the log from another of its name.
pub fn log_place(life: u64, realm: &str, topic: &str) -> String {
    format!("log:{life:x}/{realm}.{topic}")
}
