//! The frames of `lockgate.v1`.

use bytes::{BufMut, Bytes, BytesMut};
use serde::Deserialize;
use serde_json::json;

use super::super::queue::{Delivery, Outcome, Status};
use super::handshake::PROTOCOL;
use crate::http::{Problem, parse_json};
use crate::limits::{MAX_FRAME_BYTES, MAX_SETTLEMENTS};
use crate::model::{HumanDuration, Invalid, Subscription};

/// What a client sends. Keep stable.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum ClientFrame {
    /// Takes so much more.
    Credit { messages: u64, bytes: Option<u64> },
    /// Done.
    Ack { ids: Vec<String>, up_to: Option<u64>, reference: Option<u64> },
    /// Not done: deliver them again, or with `reject` never.
    Nack {
        ids: Vec<String>,
        delay: Option<HumanDuration>,
        reject: bool,
        reason: Option<String>,
        reference: Option<u64>,
    },
    /// Still at work.
    Extend { ids: Vec<String>, up_to: Option<u64>, reference: Option<u64> },
    /// To be answered with `pong`.
    Ping,
}

/// Every member that a frame may have. They are read before it is known what they belong to, so
/// that a fault names its member.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Members {
    #[serde(rename = "type")]
    kind: Kind,
    messages: Option<u64>,
    bytes: Option<u64>,
    ids: Option<Vec<String>>,
    up_to: Option<u64>,
    delay: Option<HumanDuration>,
    reject: Option<bool>,
    reason: Option<String>,
    #[serde(rename = "ref")]
    reference: Option<u64>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Credit,
    Ack,
    Nack,
    Extend,
    Ping,
}

impl ClientFrame {
    /// Reads a frame. Whatever is not one is a problem that names the member at fault.
    pub(super) fn read(text: &str) -> Result<Self, Problem> {
        let members: Members = parse_json(text.as_bytes())?;
        members.check()?;
        let Members { kind, messages, bytes, ids, up_to, delay, reject, reason, reference } =
            members;
        let ids = ids.unwrap_or_default();
        Ok(match kind {
            Kind::Credit => Self::Credit { messages: messages.unwrap_or(0), bytes },
            Kind::Ack => Self::Ack { ids, up_to, reference },
            Kind::Extend => Self::Extend { ids, up_to, reference },
            Kind::Nack => {
                Self::Nack { ids, delay, reject: reject.unwrap_or(false), reason, reference }
            }
            Kind::Ping => Self::Ping,
        })
    }
}

impl Members {
    /// Refuses members that do not belong together.
    fn check(&self) -> Result<(), Problem> {
        let allowed: &[&str] = match self.kind {
            Kind::Credit => &["messages", "bytes"],
            Kind::Ack | Kind::Extend => &["ids", "up_to", "ref"],
            Kind::Nack => &["ids", "delay", "reject", "reason", "ref"],
            Kind::Ping => &[],
        };
        let present = [
            ("messages", self.messages.is_some()),
            ("bytes", self.bytes.is_some()),
            ("ids", self.ids.is_some()),
            ("up_to", self.up_to.is_some()),
            ("delay", self.delay.is_some()),
            ("reject", self.reject.is_some()),
            ("reason", self.reason.is_some()),
            ("ref", self.reference.is_some()),
        ];
        let stranger = present.iter().find(|(name, is_there)| *is_there && !allowed.contains(name));
        if let Some((name, _)) = stranger {
            let why = Invalid::new(format!("{name} does not belong to this type of frame"));
            return Err(Problem::invalid(*name, &why));
        }
        let ids = self.ids.as_deref().unwrap_or_default();
        let why = match self.kind {
            Kind::Credit | Kind::Ping => return Ok(()),
            Kind::Ack | Kind::Extend if ids.is_empty() == self.up_to.is_none() => {
                Invalid::new("name either ids, or up_to with a position")
            }
            Kind::Nack if ids.is_empty() => Invalid::new("name the ids"),
            Kind::Ack | Kind::Extend | Kind::Nack => return check_count(ids),
        };
        Err(Problem::invalid("ids", &why))
    }
}

fn check_count(ids: &[String]) -> Result<(), Problem> {
    if ids.len() <= MAX_SETTLEMENTS {
        return Ok(());
    }
    let why = Invalid::new(format!("ids has {}: name at most {MAX_SETTLEMENTS}", ids.len()));
    Err(Problem::invalid("ids", &why).with("limit", MAX_SETTLEMENTS))
}

/// The first frame of a connection. `of` is the subscription that is read, if one is.
pub(super) fn hello(mode: &str, of: Option<&Subscription>, id: Option<&str>) -> Bytes {
    let mut hello = json!({
        "type": "hello", "protocol": PROTOCOL, "mode": mode, "max_frame_bytes": MAX_FRAME_BYTES,
    });
    if let Some(subscription) = of {
        hello["subscription"] = json!(subscription.name());
        hello["generation"] = json!(subscription.incarnation.generation);
        hello["ack_wait"] = json!(HumanDuration(subscription.ack_wait));
    }
    if let Some(id) = id {
        hello["id"] = json!(id);
    }
    hello.to_string().into()
}

/// A message in queue mode.
pub(super) fn delivery(position: u64, delivery: &Delivery) -> Bytes {
    let mut frame = BytesMut::with_capacity(delivery.event.len() + 512);
    frame.put_slice(format!("{{\"type\":\"message\",\"position\":{position},").as_bytes());
    delivery.write(&mut frame);
    frame.put_u8(b'}');
    frame.freeze()
}

/// A message in stream mode.
pub(super) fn message(id: &str, event: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(event.len() + id.len() + 64);
    // A token is base64url: nothing to escape.
    frame.put_slice(format!("{{\"type\":\"message\",\"id\":\"{id}\",\"event\":").as_bytes());
    frame.put_slice(event);
    frame.put_u8(b'}');
    frame.freeze()
}

/// A control event; `data` is JSON.
pub(super) fn control(name: &str, data: &str, id: Option<&str>) -> Bytes {
    let id = id.map_or_else(String::new, |id| format!(",\"id\":\"{id}\""));
    // Our own names, and tokens.
    format!("{{\"type\":\"control\",\"control\":\"{name}\",\"data\":{data}{id}}}").into()
}

/// The answer to a settlement.
pub(super) fn settled(reference: Option<u64>, outcomes: &[Outcome]) -> Bytes {
    let (done, refused): (Vec<_>, Vec<_>) =
        outcomes.iter().partition(|outcome| outcome.status == Status::Done);
    let mut settled = json!({ "type": "settled", "done": done.len(), "refused": refused });
    if let Some(reference) = reference {
        settled["ref"] = json!(reference);
    }
    settled.to_string().into()
}

/// What a connection ends for.
pub(super) fn error(problem: &Problem) -> Bytes {
    json!({ "type": "error", "problem": problem.to_json() }).to_string().into()
}

/// The answer to `ping`.
pub(super) fn pong() -> Bytes {
    Bytes::from_static(b"{\"type\":\"pong\"}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn client_frame() -> impl Strategy<Value = ClientFrame> {
        let ids = || prop::collection::vec("[A-Za-z0-9_-]{1,20}", 1..5);
        let number = || prop::option::of(any::<u64>());
        let delay = prop::option::of((0..10_000_u64).prop_map(Duration::from_millis));
        prop_oneof![
            (any::<u64>(), number())
                .prop_map(|(messages, bytes)| ClientFrame::Credit { messages, bytes }),
            (ids(), number()).prop_map(|(ids, reference)| ClientFrame::Ack {
                ids,
                up_to: None,
                reference
            }),
            (any::<u64>(), number()).prop_map(|(up_to, reference)| ClientFrame::Extend {
                ids: vec![],
                up_to: Some(up_to),
                reference
            }),
            (ids(), delay, any::<bool>(), prop::option::of(".{0,20}"), number()).prop_map(
                |(ids, delay, reject, reason, reference)| ClientFrame::Nack {
                    ids,
                    delay: delay.map(HumanDuration),
                    reject,
                    reason,
                    reference
                }
            ),
            Just(ClientFrame::Ping),
        ]
    }

    /// As a client writes it, without what is not there.
    fn written(frame: &ClientFrame) -> String {
        let mut json = match frame {
            ClientFrame::Credit { messages, bytes } => {
                json!({ "type": "credit", "messages": messages, "bytes": bytes })
            }
            ClientFrame::Ack { ids, up_to, reference } => {
                json!({ "type": "ack", "ids": ids, "up_to": up_to, "ref": reference })
            }
            ClientFrame::Extend { ids, up_to, reference } => {
                json!({ "type": "extend", "ids": ids, "up_to": up_to, "ref": reference })
            }
            ClientFrame::Nack { ids, delay, reject, reason, reference } => json!({
                "type": "nack", "ids": ids, "delay": delay, "reject": reject, "reason": reason,
                "ref": reference,
            }),
            ClientFrame::Ping => json!({ "type": "ping" }),
        };
        let members = json.as_object_mut().unwrap();
        members.retain(|_, value| !value.is_null());
        json.to_string()
    }

    proptest! {
        #[test]
        fn what_a_client_writes_is_read(frame in client_frame()) {
            let text = written(&frame);
            prop_assert_eq!(ClientFrame::read(&text).unwrap(), frame, "{}", text);
        }

        #[test]
        fn rubbish_is_a_problem_and_no_panic(text in ".{0,80}") {
            prop_assert!(ClientFrame::read(&text).is_err());
        }
    }

    #[test]
    fn a_fault_names_its_field() {
        for (text, kind, names) in [
            ("", 400, "empty"),
            ("{", 400, "JSON"),
            (r#"{"messages":1}"#, 422, "`type`"),
            (r#"{"type":"bye"}"#, 422, "bye"),
            (r#"{"type":"credit","messages":-1}"#, 422, "messages"),
            (r#"{"type":"credit","mesages":1}"#, 422, "mesages"),
            (r#"{"type":"ping","x":1}"#, 422, "x"),
            (r#"{"type":"ack"}"#, 422, "ids"),
            (r#"{"type":"ack","ids":["a"],"up_to":1}"#, 422, "ids"),
            (r#"{"type":"nack","ids":["a"],"delay":5}"#, 422, "delay"),
            (r#"{"type":"nack","ids":[]}"#, 422, "ids"),
            (r#"{"type":"nack","ids":["a"],"up_to":1}"#, 422, "up_to"),
            (r#"{"type":"ping","ids":["a"]}"#, 422, "ids"),
            (r#"{"type":"ping","type":"ping"}"#, 422, "type"),
        ] {
            let problem = ClientFrame::read(text).unwrap_err();
            let said = problem.to_json().to_string();
            assert_eq!(problem.kind().status().as_u16(), kind, "{text}: {said}");
            assert!(said.contains(names), "{text}: {said}");
        }
        let ids = vec![String::from("a"); MAX_SETTLEMENTS + 1];
        let many = written(&ClientFrame::Ack { ids, up_to: None, reference: None });
        assert!(ClientFrame::read(&many).unwrap_err().detail().contains("at most 1000"));
    }

    #[test]
    fn what_the_server_writes_is_json() {
        let read = |frame: Bytes| serde_json::from_slice::<Value>(&frame).unwrap();
        let sent = Delivery {
            ack: "a".into(),
            attempt: 2,
            phase: "live",
            sequence: 9,
            event: Bytes::from_static(b"{\"x\":1}"),
        };
        let expected = json!({
            "type": "message", "position": 3, "ack": "a", "attempt": 2, "phase": "live",
            "sequence": 9, "event": {"x": 1},
        });
        assert_eq!(read(delivery(3, &sent)), expected);
        let expected = json!({"type": "message", "id": "t", "event": 7});
        assert_eq!(read(message("t", b"7")), expected);
        let expected = json!({"type": "control", "control": "up-to-date", "data": {}, "id": "t"});
        assert_eq!(read(control("up-to-date", "{}", Some("t"))), expected);
        let outcome = |id: &str, status| Outcome { id: id.into(), status };
        let outcomes = [outcome("a", Status::Done), outcome("b", Status::Stale)];
        let expected = json!({
            "type": "settled", "ref": 5, "done": 1, "refused": [{"id": "b", "status": "stale"}],
        });
        assert_eq!(read(settled(Some(5), &outcomes)), expected);
        assert_eq!(read(pong()), json!({"type": "pong"}));
    }
}
