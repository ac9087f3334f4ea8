//! What other clients wrote into a log, as a consumer receives it.

use super::tests::{UNREADABLE, foreign, incarnation, minimal, nested, stored, value};
use super::*;

use data_encoding::BASE64;
use serde_json::json;

const KEY: &str = "events.orders.paid.anna";

#[test]
fn what_is_in_a_log_already_is_delivered_in_json_that_every_parser_reads() {
    let deep = [nested(121), nested(100_000)];
    let said: [(&str, &[u8]); 1] = [("Content-Type", b"application/json")];
    for data in UNREADABLE.map(String::from).iter().chain(&deep) {
        let shown: String = data.chars().take(40).collect();
        let base64 = json!(BASE64.encode(data.as_bytes()));
        let whole = minimal(&format!(r#","data":{data}"#));
        for (headers, payload) in [(&[][..], data), (&said, data), (&[], &whole)] {
            let event = value(&foreign(KEY, headers, Some(payload.as_bytes())));
            assert_eq!((&event["data_base64"], event.get("data")), (&base64, None), "{shown}");
            assert_eq!(event["datacontenttype"], "application/json");
        }
    }
}

#[test]
fn an_event_in_the_json_format_is_known_by_its_header_or_its_shape() {
    let more = r#","subject":"other","time":"2026-01-31T12:00:00Z","topic":"x.y","count":7,
        "logsequence":"99","data":{"b":1.00, "a":12345678901234567890123}"#;
    let whole = minimal(more);
    let structured: [(&str, &[u8]); 2] = [
        ("content-type", b"Application/CloudEvents+JSON; charset=\"UTF-8\""),
        ("ce-id", b"ignored"),
    ];
    let bare: [(&str, &[u8]); 1] = [("Content-Type", b"application/cloudevents")];
    for headers in [&[][..], &structured, &bare] {
        let event = foreign(KEY, headers, Some(whole.as_bytes()));
        let json = String::from_utf8(event.to_json().to_vec()).unwrap();
        assert_eq!(
            json,
            concat!(
                r#"{"specversion":"1.0","id":"1","source":"/s","type":"orders.created","#,
                r#""subject":"anna","time":"2026-01-31T12:00:00Z","#,
                r#""datacontenttype":"application/json","count":"7","logsequence":"3","#,
                r#""topic":"orders.paid","data":{"b":1.00, "a":12345678901234567890123}}"#
            )
        );
        assert!(!event.is_tombstone());
    }
}

#[test]
fn what_says_otherwise_or_lacks_the_shape_is_data() {
    let whole = minimal(r#","data":1"#);
    let others: [(&str, &[u8]); 3] = [
        ("content-type", b"application/json"),
        ("ce-id", b"7"),
        // The binding has no batch mode.
        ("content-type", b"application/cloudevents-batch+json"),
    ];
    for other in others {
        let event = value(&foreign(KEY, &[other], Some(whole.as_bytes())));
        assert_eq!((event["id"] != "1", &event["data"]["data"]), (true, &json!(1)), "{other:?}");
    }
    for no_event in [
        whole.replace("\"1.0\"", "\"0.3\""),
        whole.replace("\"id\"", "\"it\""),
        whole.replace("\"/s\"", "7"),
        whole.replace("\"/s\"", "\"\""),
        format!("[{whole}]"),
        minimal(r#","data_base64":"*""#),
    ] {
        let event = value(&foreign(KEY, &[], Some(no_event.as_bytes())));
        assert_eq!(event["id"], "events-orders-3", "{no_event}");
        assert!(event.get("data").is_some(), "{no_event}");
    }
}

#[test]
fn an_event_in_the_json_format_keeps_the_form_of_its_data() {
    let read = |more: &str| {
        let whole = minimal(more);
        let event = foreign(KEY, &[], Some(whole.as_bytes()));
        let row = Row::from(event.clone()).of_prefill(&incarnation()).unwrap();
        let row = Row::read(&stored(row, 1)).unwrap();
        assert_eq!(row.json, event.to_json());
        (event.is_tombstone(), value(&event))
    };
    for none in ["", r#","data_base64":null"#] {
        let (tombstone, event) = read(none);
        assert!(tombstone && event.get("data").is_none() && event.get("data_base64").is_none());
    }
    let (tombstone, event) = read(r#","data":null"#);
    assert!(!tombstone && event.as_object().unwrap().contains_key("data"));
    for (more, member, expected) in [
        (r#","data_base64":"""#, "data", json!("")),
        (r#","data_base64":"/wA=""#, "data_base64", json!("/wA=")),
        (r#","datacontenttype":"a/b; charset=latin1","data":"é""#, "data", json!("é")),
        (r#","datacontenttype":"text/plain","data":{"a":1}"#, "data", json!({"a": 1})),
        (r#","datacontenttype":"a/b","data":"x""#, "data_base64", json!("eA==")),
    ] {
        let (tombstone, event) = read(more);
        assert_eq!((tombstone, &event[member]), (false, &expected), "{more}");
    }
    let (_, event) = read(r#","time":"2026-01-31 12:00:00Z","ext":"\ud800""#);
    assert_eq!((&event["time"], event.get("ext")), (&json!("2023-11-14T22:13:20.123Z"), None));
}

#[test]
fn the_binding_for_nats_names_the_header_of_the_media_type() {
    let headers: [(&str, &[u8]); 3] = [
        ("Content-Type", b"text/plain"),
        ("Ce-DataContentType", b"application/json;%20charset=utf-8"),
        ("ce-time", b"2026-06-30T23:59:60z"),
    ];
    let event = value(&foreign(KEY, &headers, Some(b"[1]")));
    assert_eq!(event["datacontenttype"], "application/json; charset=utf-8");
    assert_eq!((&event["data"], &event["time"]), (&json!([1]), &json!("2026-06-30T23:59:60z")));
}
