//! Registration, prefill worker and dispatcher together, without HTTP.

use std::time::Duration;

use bus::{Bus, Subject, SubjectFilter};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Registration, RegistrationError, Request, run};
use crate::model::{
    CloudEvent, Incarnation, Prefill, Realm, RowsDigest, SubscriptionName, TopicSet, names,
};
use crate::platform::{Entropy, Platform};
use crate::store::{Kept, Store, StoreOptions};
use crate::work::{Report, send_report};
use crate::{dispatcher, prefill};

async fn store() -> Store {
    let bus = Bus::connect("embedded:").await.unwrap();
    let platform = Platform { entropy: Entropy::seeded(1), ..Platform::new(bus) };
    Store::open(platform, StoreOptions::default()).await.unwrap()
}

async fn publish(store: &Store, topic: &str, key: &str, data: Option<u64>) {
    let id = format!("{topic} {key} {data:?}");
    let data = data.map(|data| format!(r#","data":{data}"#)).unwrap_or_default();
    let json = format!(
        r#"{{"specversion":"1.0","id":"{id}","source":"/t","type":"{topic}","subject":"{key}"{data}}}"#
    );
    let event = CloudEvent::from_json(json.as_bytes()).unwrap();
    let log = store.ensure_realm(&event.topic().realm).await.unwrap();
    log.publish(event.to_message().unwrap()).await.unwrap();
}

fn request(name: &str, prefill: bool) -> Request {
    Request {
        name: SubscriptionName::new(name).unwrap(),
        topics: TopicSet::parse(&["dir.*"]).unwrap(),
        prefill,
        secret: None,
        ack_wait: Duration::from_secs(30),
        max_attempts: None,
        dead_letters: None,
    }
}

/// Runs the three roles until dropped.
fn roles(store: &Store) -> JoinSet<Result<(), bus::Error>> {
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(run(Registration::new(store.clone()), stop.clone()));
    tasks.spawn(prefill::run(store.clone(), stop.clone()));
    tasks.spawn(dispatcher::run(store.clone(), stop));
    tasks
}

/// The record once `wanted` says so, within ten virtual minutes.
async fn when(store: &Store, name: &str, wanted: impl Fn(&Kept) -> bool) -> Kept {
    for _ in 0..600 {
        let kept = store.subscription(&SubscriptionName::new(name).unwrap()).await.unwrap();
        if let Some(kept) = kept.filter(&wanted) {
            return kept;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    panic!("{name} did not get there");
}

fn done(kept: &Kept) -> bool {
    matches!(kept.subscription.prefill, Prefill::Done { .. })
}

#[tokio::test(start_paused = true)]
async fn a_prefill_holds_the_state_at_the_fence_and_says_so() {
    let store = store().await;
    for (key, data) in [("a", Some(1)), ("b", Some(2)), ("a", Some(3)), ("b", None), ("c", Some(4))]
    {
        publish(&store, "dir.user", key, data).await;
    }
    publish(&store, "other.user", "a", Some(9)).await;
    let registered =
        Registration::new(store.clone()).register(request("people", true)).await.unwrap();
    assert!(registered.created && registered.secret.is_some());
    publish(&store, "dir.user", "a", Some(5)).await;
    let _roles = roles(&store);
    let kept = when(&store, "people", done).await;
    let Prefill::Done { manifest } = &kept.subscription.prefill else { unreachable!() };

    let realm = Realm::new("dir").unwrap();
    let mut digest = RowsDigest::default();
    digest.add(&realm, 3);
    digest.add(&realm, 5);
    assert_eq!((manifest.rows, &manifest.digest), (2, &digest.to_hex()));
    assert_eq!(manifest.fence, [(realm, 5)].into());
    let rows = store.prefill.subjects(&SubjectFilter::all()).await.unwrap();
    assert_eq!(rows.len(), 3, "two rows and the manifest: {rows:?}");
}

#[tokio::test(start_paused = true)]
async fn a_repeat_is_recognised_and_a_difference_named() {
    let store = store().await;
    let registration = Registration::new(store.clone());
    let first = registration.register(request("people", true)).await.unwrap();
    let again = registration.register(request("people", true)).await.unwrap();
    assert!(!again.created && again.secret.is_none() && again.kept == first.kept);
    let own = Request { secret: first.secret, ..request("people", true) };
    assert!(!registration.register(own).await.unwrap().created);
    match registration.register(request("people", false)).await {
        Err(RegistrationError::Different { differs, .. }) => assert_eq!(differs, ["prefill"]),
        _ => panic!("a different subscription was taken for a repeat"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_realm_made_later_joins_from_its_beginning() {
    let store = store().await;
    Registration::new(store.clone()).register(request("people", false)).await.unwrap();
    let _roles = roles(&store);
    publish(&store, "dir.user", "a", Some(1)).await;
    let realm = Realm::new("dir").unwrap();
    let kept = when(&store, "people", |kept| kept.subscription.fence.contains_key(&realm)).await;
    assert_eq!(kept.subscription.fence[&realm], 0);
}

#[tokio::test(start_paused = true)]
async fn a_log_that_lost_its_beginning_fails_the_prefill_with_a_reason() {
    let store = store().await;
    publish(&store, "dir.user", "a", Some(1)).await;
    publish(&store, "dir.user", "b", Some(2)).await;
    let log = store.log(&Realm::new("dir").unwrap()).await.unwrap();
    log.purge(&SubjectFilter::new("events.dir.user.a").unwrap()).await.unwrap();
    Registration::new(store.clone()).register(request("people", true)).await.unwrap();
    let _roles = roles(&store);
    let failed = |kept: &Kept| matches!(kept.subscription.prefill, Prefill::Failed { .. });
    let Prefill::Failed { reason } = when(&store, "people", failed).await.subscription.prefill
    else {
        unreachable!()
    };
    assert!(reason.starts_with("history-incomplete"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn a_prefill_that_killed_every_worker_ends_with_a_reason() {
    let store = store().await;
    publish(&store, "dir.user", "a", Some(1)).await;
    let registered = Registration::new(store.clone()).register(request("people", true)).await;
    let of = registered.unwrap().kept.subscription.incarnation;
    let zeros = "0".repeat(64);
    let cursor = format!(
        r#"{{"claims":25,"attempts":25,"scanned":0,"total":0,"rows":0,"digest":"{zeros}"}}"#
    );
    store.cursors.put(names::cursor_key(&of), cursor).await.unwrap();
    let _roles = roles(&store);
    let failed = |kept: &Kept| matches!(kept.subscription.prefill, Prefill::Failed { .. });
    let Prefill::Failed { reason } = when(&store, "people", failed).await.subscription.prefill
    else {
        unreachable!()
    };
    assert!(reason.starts_with("attempts-exhausted"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn a_report_that_cannot_be_applied_does_not_come_for_ever() {
    let store = store().await;
    publish(&store, "dir.user", "a", Some(1)).await;
    let registered = Registration::new(store.clone()).register(request("people", true)).await;
    let of = registered.unwrap().kept.subscription.incarnation;
    store.subscriptions.put("people", "not a record").await.unwrap();
    let reason = String::from("on purpose");
    send_report(&store, &Report::PrefillFailed { of, reason }).await.unwrap();
    let reports = bus::Message::new(names::REPORT_SUBJECT, "not a report").unwrap();
    store.tasks.publish(reports).await.unwrap();
    let _roles = roles(&store);
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(store.tasks.info().await.unwrap().messages, 0);
}

#[tokio::test(start_paused = true)]
async fn deleting_leaves_nothing_behind() {
    let store = store().await;
    publish(&store, "dir.user", "a", Some(1)).await;
    let registration = Registration::new(store.clone());
    registration.register(request("people", true)).await.unwrap();
    let _roles = roles(&store);
    let kept = when(&store, "people", done).await;
    registration.delete(kept.subscription.name(), Some(kept.revision)).await.unwrap();
    assert_eq!(store.bus().consumers("events-dir").await.unwrap(), []);
    assert_eq!(store.prefill.info().await.unwrap().messages, 0);
    assert_eq!(store.cursors.keys(">").await.unwrap(), []);
    assert_eq!(store.leases.keys(">").await.unwrap(), []);
    assert!(registration.get(kept.subscription.name()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_prefill_that_was_never_asked_for_is_requested() {
    let store = store().await;
    publish(&store, "dir.user", "a", Some(1)).await;
    let registered = Registration::new(store.clone()).register(request("people", false)).await;
    // As if the process had died between the record and the request.
    let Kept { mut subscription, revision } = registered.unwrap().kept;
    subscription.prefill = Prefill::Pending;
    store.keep_subscription(&subscription, revision).await.unwrap();
    let _roles = roles(&store);
    when(&store, "people", done).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_deletion_left_is_removed() {
    let store = store().await;
    publish(&store, "dir.user", "a", Some(1)).await;
    let registration = Registration::new(store.clone());
    registration.register(request("people", true)).await.unwrap();
    let _roles = roles(&store);
    let of = when(&store, "people", done).await.subscription.incarnation;
    // As if the process had died after the record was gone.
    store.subscriptions.delete("people", None).await.unwrap();
    let realm = Realm::new("dir").unwrap();
    store.journal.put(names::journal_live_key(&of, &realm), "{}").await.unwrap();
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(store.cursors.keys(">").await.unwrap(), []);
    assert_eq!(store.journal.keys(">").await.unwrap(), []);
    assert_eq!(store.prefill.info().await.unwrap().messages, 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_left_without_a_record_is_removed() {
    let store = store().await;
    publish(&store, "dir.user", "a", Some(1)).await;
    let registered = Registration::new(store.clone()).register(request("people", true)).await;
    let ours = registered.unwrap().kept.subscription.incarnation;
    let gone = Incarnation { uid: "0".repeat(16), ..ours.clone() };
    let realm = Realm::new("dir").unwrap();
    for of in [&ours, &gone] {
        store.journal.put(names::journal_live_key(of, &realm), "{}").await.unwrap();
        store.cursors.put(names::cursor_key(of), "not one of this version").await.unwrap();
    }
    let _roles = roles(&store);
    tokio::time::sleep(Duration::from_secs(120)).await;
    let journals = store.journal.keys(">").await.unwrap();
    assert_eq!(journals, [Subject::new(names::journal_live_key(&ours, &realm)).unwrap()]);
    let cursors = store.cursors.keys(">").await.unwrap();
    assert_eq!(cursors, [Subject::new(names::cursor_key(&ours)).unwrap()]);
}
