//! From every way in to the JSON a consumer receives.

use std::time::{Duration, SystemTime};

use bus::{Headers, Message, StoredMessage, Subject};
use bytes::Bytes;
use data_encoding::BASE64;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{Incarnation, SubscriptionName};

pub(super) fn stored(message: Message, sequence: u64) -> StoredMessage {
    StoredMessage {
        sequence,
        timestamp: SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789),
        subject: message.subject,
        key: message.key,
        headers: message.headers,
        payload: message.payload,
    }
}

fn delivered(event: &CloudEvent) -> String {
    let message = stored(event.to_message().unwrap(), 17);
    let json = LogEvent::from_log(&message).unwrap().to_json();
    String::from_utf8(json.to_vec()).unwrap()
}

pub(super) fn foreign(
    subject: &str,
    headers: &[(&str, &[u8])],
    payload: Option<&[u8]>,
) -> LogEvent {
    let mut message = Message::tombstone(subject).unwrap();
    for (name, value) in headers {
        message = message.header(*name, value.to_vec()).unwrap();
    }
    message.payload = payload.map(Bytes::copy_from_slice);
    LogEvent::from_log(&stored(message, 3)).unwrap()
}

pub(super) fn value(event: &LogEvent) -> Value {
    serde_json::from_slice(&event.to_json()).unwrap()
}

pub(super) fn minimal(more: &str) -> String {
    format!(r#"{{"specversion":"1.0","id":"1","source":"/s","type":"orders.created"{more}}}"#)
}

fn fault(json: &str) -> EventFault {
    CloudEvent::from_json(json.as_bytes()).unwrap_err()
}

#[test]
fn an_event_is_delivered_as_it_was_sent() {
    let more = r#","subject":"anna@example.org","time":"2026-01-31T12:00:00.5+01:00",
        "dataschema":"http://s","count":-7,"sampled":true,"note":"50% \"é\"",
        "data":{"b":1.00,"a":12345678901234567890123,
                "b":null}"#;
    let event = CloudEvent::from_json(minimal(more).as_bytes()).unwrap();
    assert_eq!(
        delivered(&event),
        concat!(
            r#"{"specversion":"1.0","id":"1","source":"/s","type":"orders.created","#,
            r#""subject":"anna@example.org","time":"2026-01-31T12:00:00.5+01:00","#,
            r#""datacontenttype":"application/json","count":"-7","dataschema":"http://s","#,
            r#""logsequence":"17","note":"50% \"é\"","sampled":"true","topic":"orders.created","#,
            r#""data":{"b":1.00,"a":12345678901234567890123,                 "b":null}}"#
        )
    );
    let message = event.to_message().unwrap();
    assert_eq!(message.subject.as_str(), "events.orders.created.anna=40example=2Eorg");
    assert_eq!(message.id.as_deref(), Some("/s 1"));
    assert_eq!(message.headers.get("ce-note"), Some("50%25%20%22%C3%A9%22"));
    assert_eq!(message.headers.get("content-type"), Some("application/json"));
}

#[test]
fn tombstone_empty_data_and_null_are_three_things() {
    let data = |more: &str| {
        let event = CloudEvent::from_json(minimal(more).as_bytes()).unwrap();
        (event.data().cloned(), serde_json::from_str::<Value>(&delivered(&event)).unwrap())
    };
    let (stored, json) = data("");
    assert!(stored.is_none() && json.get("data").is_none() && json.get("data_base64").is_none());
    let (stored, json) = data(r#","data":null"#);
    assert_eq!((stored.unwrap().as_ref(), &json["data"]), (&b"null"[..], &Value::Null));
    assert!(json.as_object().unwrap().contains_key("data"));
    let (stored, json) = data(r#","datacontenttype":"text/plain","data":"""#);
    assert_eq!((stored.unwrap().as_ref(), &json["data"]), (&b""[..], &json!("")));
    let (stored, json) = data(r#","data_base64":"""#);
    assert_eq!((stored.unwrap().as_ref(), &json["data"]), (&b""[..], &json!("")));
    let headers = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s")];
    let headers = headers.into_iter().chain([("ce-type", "a.b")]);
    let headers = headers.map(|(name, value)| (name, value.as_bytes()));
    assert_eq!(CloudEvent::from_binary(headers, Bytes::new()).unwrap().data(), None);
}

#[test]
fn the_topic_comes_from_the_extension_or_else_the_type() {
    let topic = |json: String| CloudEvent::from_json(json.as_bytes()).unwrap().topic().to_string();
    assert_eq!(topic(minimal("")), "orders.created");
    assert_eq!(topic(minimal(r#","topic":"directory.user""#)), "directory.user");
    assert_eq!(topic(minimal(r#","topic":null"#)), "orders.created");
    let wrong = fault(&minimal("").replace("orders.created", "org.example.order.created"));
    assert_eq!(wrong.field(), Some("type"));
    assert!(wrong.to_string().contains("the extension topic"), "{wrong}");
    assert_eq!(fault(&minimal(r#","topic":"orders""#)).field(), Some("topic"));
}

#[test]
fn a_fault_names_its_field() {
    for name in ["specversion", "id", "source", "type"] {
        for broken in [Value::Null, json!(""), json!(1), json!({})] {
            let mut event: Value = serde_json::from_str(&minimal("")).unwrap();
            event[name] = broken;
            assert_eq!(fault(&event.to_string()).field(), Some(name));
        }
    }
    for (more, field) in [
        (r#","time":"yesterday""#, "time"),
        (r#","datacontenttype":"json""#, "datacontenttype"),
        (r#","Extension":"x""#, "Extension"),
        (r#","my_extension":"x""#, "my_extension"),
        (r#","logsequence":"1""#, "logsequence"),
        (r#","ext":1.5"#, "ext"),
        (r#","ext":{}"#, "ext"),
        (r#","ext":"a\nb""#, "ext"),
        (r#","id":"2""#, "id"),
        (r#","data":1,"data_base64":"""#, "data_base64"),
        (r#","data_base64":"*""#, "data_base64"),
        (r#","datacontenttype":"text/plain","data":{}"#, "data"),
    ] {
        let fault = fault(&minimal(more));
        assert_eq!((fault.kind(), fault.field()), (FaultKind::Invalid, Some(field)), "{more}");
        assert!(fault.to_string().starts_with(field), "{fault}");
    }
    let long = format!(r#","subject":"{}""#, "x".repeat(257));
    assert_eq!(fault(&minimal(&long)).to_string(), "subject has 257 bytes: a key has at most 256");
    let id = minimal("").replace(r#""1""#, &format!(r#""{}""#, "x".repeat(1025)));
    assert_eq!(fault(&id).field(), Some("id"));
    assert_eq!(fault(&minimal("").replace("/s", "/s s")).field(), Some("source"));
    for malformed in ["", "[]", "{", "nonsense", "\u{0}"] {
        assert_eq!(fault(malformed).kind(), FaultKind::Malformed, "{malformed:?}");
    }
}

/// JSON that strict parsers refuse, each in its own way.
pub(super) const UNREADABLE: [&str; 7] = [
    r#"{"nick":"\ud800"}"#,
    r#"["\udc00\ud800"]"#,
    r#"{"\ud800":1}"#,
    r#"{"n":1e999}"#,
    r#"{"n":[-1e400]}"#,
    r#""\uDBFF""#,
    "-1E+400",
];

pub(super) fn nested(depth: usize) -> String {
    "[".repeat(depth) + &"]".repeat(depth)
}

fn binary(content_type: Option<&str>, body: &str) -> Result<CloudEvent, EventFault> {
    let headers = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s")];
    let headers = headers.into_iter().chain([("ce-type", "orders.created")]);
    let headers = headers.chain(content_type.map(|value| ("content-type", value)));
    let headers = headers.map(|(name, value)| (name, value.as_bytes()));
    CloudEvent::from_binary(headers, Bytes::copy_from_slice(body.as_bytes()))
}

#[test]
fn json_that_strict_parsers_refuse_is_refused_with_its_field_in_every_mode() {
    let deep = [nested(121), nested(200), nested(100_000)];
    for data in UNREADABLE.map(String::from).iter().chain(&deep) {
        let event = minimal(&format!(r#","data":{data}"#));
        let batch = format!("[{},{event}]", minimal(""));
        let shown: String = data.chars().take(40).collect();
        for (fault, field) in [
            (fault(&event), "data"),
            (CloudEvent::from_json_batch(batch.as_bytes()).unwrap_err(), "events[1].data"),
            (binary(Some("application/vnd.x+json; v=1"), data).unwrap_err(), "data"),
            (binary(None, data).unwrap_err(), "data"),
        ] {
            assert_eq!((fault.kind(), fault.field()), (FaultKind::Invalid, Some(field)), "{shown}");
            assert!(fault.to_string().len() < 500, "{fault}");
        }
        // As bytes it is taken, and given back as bytes.
        let base64 = BASE64.encode(data.as_bytes());
        let more = format!(r#","datacontenttype":"application/json","data_base64":"{base64}""#);
        let event = CloudEvent::from_json(minimal(&more).as_bytes()).unwrap();
        let read: Value = serde_json::from_str(&delivered(&event)).unwrap();
        assert_eq!(read["data_base64"], json!(base64), "{shown}");
    }
}

#[test]
fn what_is_said_to_be_json_and_is_not_is_refused_with_its_field() {
    for data in [r#"{"a":NaN}"#, "{oops", "\u{feff}1"] {
        let fault = binary(Some("application/json"), data).unwrap_err();
        assert_eq!((fault.kind(), fault.field()), (FaultKind::Invalid, Some("data")), "{data}");
        assert!(delivered(&binary(None, data).unwrap()).contains("text/plain"), "{data}");
    }
    let fault = fault(&minimal(r#","data":{"a":NaN}"#));
    assert_eq!((fault.kind(), fault.field()), (FaultKind::Malformed, Some("data")), "{fault}");
    assert!(fault.to_string().starts_with("data is not JSON"), "{fault}");
}

#[test]
fn a_header_named_data_is_refused_and_not_lost() {
    let headers = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s")];
    let headers = headers.into_iter().chain([("ce-type", "a.b"), ("ce-data", "x")]);
    let headers = headers.map(|(name, value)| (name, value.as_bytes()));
    let fault = CloudEvent::from_binary(headers, Bytes::new()).unwrap_err();
    assert_eq!((fault.kind(), fault.field()), (FaultKind::Invalid, Some("data")));
}

#[test]
fn what_parsers_read_passes_as_it_was_written() {
    let deep = nested(120);
    for data in [
        r#"{"z":1,"n":12345678901234567890123,"amount":1.10,"e":1E2,"a":2}"#,
        r#"{"a":1,"a":2}"#,
        "-0",
        "9223372036854775808",
        "0.1000000000000000055511151231257827",
        r#""\uD83D\uDE00\u0000""#,
        &deep,
    ] {
        let event = CloudEvent::from_json(minimal(&format!(r#","data":{data}"#)).as_bytes());
        assert!(delivered(&event.unwrap()).ends_with(&format!(r#","data":{data}}}"#)), "{data}");
        let event = binary(Some("application/json"), data).unwrap();
        assert!(delivered(&event).ends_with(&format!(r#","data":{data}}}"#)), "{data}");
    }
}

#[test]
fn half_a_surrogate_pair_outside_of_the_data_is_called_so() {
    for (more, field) in [
        (r#","subject":"a\ud800b""#, "subject"),
        (r#","ext":"\udc00""#, "ext"),
        (r#","time":"\ud800""#, "time"),
        (r#","\ud800":1"#, r"\ud800"),
        (r#","datacontenttype":"text/plain","data":"\ud800""#, "data"),
    ] {
        let fault = fault(&minimal(more));
        assert_eq!((fault.kind(), fault.field()), (FaultKind::Invalid, Some(field)), "{more}");
        let sentence = fault.to_string();
        assert!(sentence.contains("half of a surrogate pair"), "{sentence}");
        assert!(!sentence.contains("not a string"), "{sentence}");
    }
}

#[test]
fn another_charset_is_bytes_and_never_a_string() {
    for media_type in ["text/plain; v=1; charset=ISO-8859-1", r#"a/json;charset="utf-16""#] {
        let quoted = media_type.replace('"', r#"\""#);
        let more = format!(r#","datacontenttype":"{quoted}","data":"caf""#);
        assert_eq!(fault(&minimal(&more)).field(), Some("datacontenttype"), "{media_type}");
        let event = binary(Some(media_type), "caf").unwrap();
        let read: Value = serde_json::from_str(&delivered(&event)).unwrap();
        assert_eq!((&read["data_base64"], read.get("data")), (&json!("Y2Fm"), None));
    }
}

#[test]
fn a_batch_is_read_whole_or_not_at_all() {
    let batch = |events: &[String]| {
        CloudEvent::from_json_batch(format!("[{}]", events.join(",")).as_bytes())
    };
    assert_eq!(batch(&[]).unwrap().len(), 0);
    assert_eq!(batch(&[minimal(""), minimal("")]).unwrap().len(), 2);
    let bad = batch(&[minimal(""), minimal("").replace(r#""id":"1","#, "")]).unwrap_err();
    assert_eq!(bad.field(), Some("events[1].id"));
    assert_eq!(batch(&[minimal(""), "7".into()]).unwrap_err().field(), Some("events[1]"));
    let many = batch(&vec![minimal(""); crate::limits::MAX_BATCH_EVENTS + 1]).unwrap_err();
    assert_eq!(many.kind(), FaultKind::TooMany);
    assert_eq!(
        CloudEvent::from_json_batch(minimal("").as_bytes()).unwrap_err().kind(),
        FaultKind::Malformed
    );
}

#[test]
fn what_does_not_fit_is_refused() {
    let fits = |bytes: usize| {
        let more = format!(r#","data":"{}""#, "x".repeat(bytes));
        CloudEvent::from_json(minimal(&more).as_bytes()).map(drop)
    };
    assert_eq!(fits(500 * 1024), Ok(()));
    assert_eq!(fits(512 * 1024).unwrap_err().kind(), FaultKind::TooLarge);
    let wide = minimal(&format!(r#","ext":"{}""#, "é".repeat(12 * 1024)));
    assert_eq!(fault(&wide).kind(), FaultKind::TooLarge);
}

#[test]
fn a_plain_message_of_any_client_becomes_an_event() {
    let event = value(&foreign("events.orders.created.a=40b", &[], Some(br#"{"n": 1}"#)));
    let expected = json!({
        "specversion": "1.0", "id": "events-orders-3", "source": "/lockgate/orders",
        "type": "orders.created", "subject": "a@b", "time": "2023-11-14T22:13:20.123Z",
        "datacontenttype": "application/json", "logsequence": "3", "topic": "orders.created",
        "data": {"n": 1},
    });
    assert_eq!(event, expected);
    let text = value(&foreign("events.orders.created.=", &[], Some(b"hello, {world")));
    assert_eq!(text["data"], "hello, {world");
    assert_eq!(text["datacontenttype"], "text/plain");
    assert!(text.get("subject").is_none());
    let binary = value(&foreign("events.orders.created.k", &[], Some(b"\xff\x00")));
    assert_eq!(binary["data_base64"], "/wA=");
    let wrong = [("Content-Type", &b"application/json"[..])];
    let wrong = value(&foreign("events.orders.created.k", &wrong, Some(b"{oops")));
    assert_eq!((&wrong["data_base64"], wrong.get("data")), (&json!("e29vcHM="), None));
    let message = Message::new("events.orders.Created.k", "x").unwrap();
    assert_eq!(LogEvent::from_log(&stored(message, 1)), None);
}

#[test]
fn a_foreign_event_keeps_what_it_has_and_gets_what_it_lacks() {
    let headers: [(&str, &[u8]); 9] = [
        ("CE-ID", b"a%20b"),
        ("ce-id", b"second"),
        ("ce-source", b""),
        ("ce-type", b"org.example.thing"),
        ("ce-time", b"yesterday"),
        ("ce-subject", b"other"),
        ("ce-logsequence", b"99"),
        ("ce-bad_name", b"x"),
        ("ce-ext", b"caf\xc3\xa9 \xff"),
    ];
    let event = value(&foreign("events.orders.created.k", &headers, None));
    assert_eq!(event["id"], "a b");
    assert_eq!(event["source"], "/lockgate/orders");
    assert_eq!(event["type"], "org.example.thing");
    assert_eq!(event["time"], "2023-11-14T22:13:20.123Z");
    assert_eq!((&event["subject"], &event["logsequence"]), (&json!("k"), &json!("3")));
    // Not UTF-8 once decoded, which the binding has a receiver reject.
    assert!(event.get("ext").is_none());
    assert!(event.get("bad_name").is_none() && event.get("data").is_none());
}

pub(super) fn incarnation() -> Incarnation {
    let name = SubscriptionName::new("people").unwrap();
    Incarnation { name, uid: "00ff".into(), generation: 2 }
}

#[test]
fn a_row_reads_like_the_log() {
    let own: [(&str, &[u8]); 4] = [
        ("ce-id", b"1"),
        ("lockgate-sequence", b"99"),
        ("lockgate-time", b"x"),
        ("lockgate-encoded", b"98"),
    ];
    // As JSON, and, where that is too large, as the log has it.
    let large = vec![1; 200_000];
    for (payload, is_large) in [(Some(&b"[1]"[..]), false), (None, false), (Some(&large[..]), true)]
    {
        let event = foreign("events.orders.created.a=40b", &own, payload);
        let row = Row::from(event.clone());
        let message = row.of_prefill(&incarnation()).unwrap();
        assert_eq!(message.subject.as_str(), "prefill.people.00ff.2.row.orders.created.a=40b");
        assert_eq!(message.expect, Some(bus::Expect::LastSubjectSequence(0)));
        assert_eq!(message.headers.get("lockgate-encoded").is_none(), is_large);
        assert_eq!(row.json, event.to_json());
        assert_eq!(Row::read(&stored(message, 1)), Some(row));
    }
    let manifest = Message::new("prefill.people.00ff.2.manifest", "{}").unwrap();
    assert_eq!(Row::read(&stored(manifest, 1)), None);
    let bare = Message::new("prefill.people.00ff.2.row.orders.created.k", "{}").unwrap();
    assert_eq!(Row::read(&stored(bare, 1)), None);
}

fn attributes() -> impl Strategy<Value = Vec<(String, String)>> {
    let text = "[ -~é€😀]{1,20}";
    let extensions = prop::collection::btree_map("x[a-z0-9]{1,10}", text, 0..4);
    (text, "[!-~]{1,20}", "[ -~]{0,20}", extensions).prop_map(|(id, source, subject, more)| {
        let mut all: Vec<(String, String)> = more.into_iter().collect();
        let given = [("id", id), ("source", source), ("subject", subject)];
        all.extend(given.map(|(name, value)| (name.to_owned(), value)));
        all.push(("specversion".into(), "1.0".into()));
        all.push(("type".into(), "orders.created".into()));
        all
    })
}

/// Checks that what a consumer reads is what was sent.
fn holds(json: &str, sent: &[(String, String)], data: Option<&[u8]>) {
    let read: Value = serde_json::from_str(json).unwrap();
    for (name, value) in sent {
        let expected = Some(value.as_str()).filter(|value| !value.is_empty());
        assert_eq!(read.get(name).and_then(Value::as_str), expected, "{name}");
    }
    let text = read.get("data").map(|data| data.as_str().unwrap().as_bytes().to_vec());
    let binary = read.get("data_base64").and_then(Value::as_str);
    let binary = binary.map(|base64| BASE64.decode(base64.as_bytes()).unwrap());
    assert_eq!(text.or(binary).as_deref(), data);
    assert!(!json.contains(['\n', '\r']));
}

proptest! {
    #[test]
    fn http_binary_to_consumer_keeps_everything(
        sent in attributes(),
        data in prop::option::of(prop::collection::vec(any::<u8>(), 1..40)),
    ) {
        let headers: Vec<(String, String)> = sent
            .iter()
            .map(|(name, value)| (format!("ce-{name}"), attribute::to_header(value)))
            .chain([("content-type".into(), "text/plain".into())])
            .collect();
        let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let body = Bytes::from(data.clone().unwrap_or_default());
        let event = CloudEvent::from_binary(headers, body).unwrap();
        holds(&delivered(&event), &sent, data.as_deref());
    }

    #[test]
    fn structured_to_consumer_keeps_everything(
        sent in attributes(),
        data in prop::option::of("\\PC{0,40}"),
        base64: bool,
    ) {
        let mut json: Value = sent.iter().map(|(n, v)| (n.clone(), json!(v))).collect();
        json["datacontenttype"] = json!("text/plain");
        match &data {
            Some(data) if base64 => json["data_base64"] = json!(BASE64.encode(data.as_bytes())),
            Some(data) => json["data"] = json!(data),
            None => {}
        }
        let event = CloudEvent::from_json(json.to_string().as_bytes()).unwrap();
        holds(&delivered(&event), &sent, data.as_deref().map(str::as_bytes));
    }

    #[test]
    fn no_message_of_any_client_fails_to_be_delivered(
        key in "[!-)+-\\-/-=?-~]{1,20}",
        headers in prop::collection::vec(
            (
                prop_oneof![Just("content-type".to_owned()), "(ce|CE)-[!-9;-~]{0,8}", "[!-9;-~]{1,9}",
                    "ce-(id|source|type|time|specversion|topic)"],
                prop::collection::vec(any::<u8>().prop_filter("", |b| *b != b'\r' && *b != b'\n'), 0..20),
            ),
            0..6,
        ),
        payload in prop::option::of(prop::collection::vec(any::<u8>(), 0..40)),
        seconds in 0u64..1 << 60,
    ) {
        let mut message = stored(Message::tombstone("a").unwrap(), 9);
        message.subject = Subject::new(format!("events.r.t.{key}")).unwrap();
        message.headers = Headers::new();
        for (name, value) in headers {
            message.headers.append(name, value).unwrap();
        }
        message.payload = payload.map(Bytes::from);
        if let Some(time) = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)) {
            message.timestamp = time;
        }
        let event = LogEvent::from_log(&message).unwrap();
        let json = value(&event);
        for name in ["specversion", "id", "source", "type", "time", "topic", "logsequence"] {
            prop_assert!(json[name].as_str().is_some_and(|text| !text.is_empty()), "{}", name);
        }
        let tombstone = json.get("data").is_none() && json.get("data_base64").is_none();
        prop_assert_eq!(tombstone, message.payload.is_none());
        let row = Row::from(event.clone()).of_prefill(&incarnation()).unwrap();
        let same = Row::read(&stored(row, 1)).map(|row| row.json);
        prop_assert_eq!(same, Some(event.to_json()));
    }
}
