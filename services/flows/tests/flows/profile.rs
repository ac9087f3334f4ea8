//! Profiles and their replica.

use bus::{Bus, Message};
use lockgate_flows::Context;
use lockgate_flows::profile::{FLOW, PARKED, PORT, REPLICA_PORT, Row, UPDATES, UPDATES_SUBJECT};
use serde_json::{Value, json};

use crate::support::{Told, World, on_every_bus, start, until};

const FREE: [(&lockgate_flows::Setting, &str); 2] = [(&PORT, "0"), (&REPLICA_PORT, "0")];
const EARLY: &str = r#"{"patientID": 1, "firstName": "John", "lastName": "Doe",
    "isPregnant": false, "updatedAt": "2006-01-02T15:00:00.000000000Z10:00"}"#;
const LATE: &str = r#"{"patientID": 1, "firstName": "John", "lastName": "Doe",
    "isPregnant": true, "updatedAt": "2006-01-02T15:00:00.500000000Z10:00"}"#;

fn client() -> reqwest::Client {
    // reqwest wants a TLS provider even for plain HTTP; a second installation is refused.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().unwrap()
}

/// Where the one role of this flow listens.
async fn url(told: &Told) -> String {
    let listening = until("listening", async || told.values("listening").first().cloned()).await;
    format!("{}/patientprofile", listening.as_str().unwrap())
}

async fn row(state: &Bus, patient: &str, holds: impl Fn(&Row) -> bool) -> Row {
    until("in step", async || {
        let rows = state.kv("patient-profile").await.ok()?;
        let row = rows.get_json::<Row>(format!("patient.{patient}")).await.unwrap();
        row.map(|(row, _)| row).filter(|row| holds(row))
    })
    .await
}

async fn end(
    context: &Context,
    running: tokio::task::JoinHandle<Result<(), lockgate_flows::Failure>>,
) {
    context.shutdown.cancel();
    running.await.unwrap().unwrap();
}

/// The document's two updates the wrong way round, before and after a restart, and one that nobody
/// can read.
async fn the_later_update_wins_whichever_comes_first(world: &World) {
    let (context, _) = world.context(&FREE);
    (FLOW.prepare)(context.clone()).await.unwrap();
    let updates = world.bus.stream(UPDATES).await.unwrap();
    let publish = async |body: &str, key: &str| {
        let update = Message::new(UPDATES_SUBJECT, body.to_owned()).unwrap().key(key);
        updates.publish(update).await.unwrap()
    };
    publish(LATE, "1").await;
    publish(EARLY, "1").await;
    publish(&LATE.replace("Z10:00", " at ten"), "1").await;
    // Under another key, so that it may stand in another partition.
    publish(&EARLY.replace("false", "\"False\""), "elsewhere").await;
    let (running, counters) = (start(&FLOW, &["replica"], &context), context.counters.clone());
    let count = |name: &'static str| counters.counter(name).get();
    until("applied", async || {
        let all = count("updates applied") + count("older than the row") + count("updates parked");
        (all >= 4).then_some(())
    })
    .await;
    let stands = row(&world.state, "1", |_| true).await;
    assert!(stands.profile.is_pregnant);
    assert_eq!(stands.profile.updated_at, "2006-01-02T05:00:00.500000000Z");
    let dead = world.bus.dead_letters(PARKED).await.unwrap();
    let parked = until("parked", async || dead.list(None, 10).await.unwrap().pop()).await;
    assert!(
        parked.reason.starts_with("UpdatedAt: \"2006-01-02T15:00:00.500000000 at ten\" is no time")
    );
    end(&context, running).await;

    // A replica whose rows are lost makes them of the history.
    let state = Bus::connect("embedded:").await.unwrap();
    let (context, _) = world.context(&FREE);
    let context = Context { state: state.clone(), ..context };
    let running = start(&FLOW, &["replica"], &context);
    assert_eq!(row(&state, "1", |row| row.profile.is_pregnant).await, stands);
    end(&context, running).await;
}

/// With curl's eyes: what is posted is answered, and shows at the replica.
async fn what_is_posted_shows_at_the_replica(world: &World) {
    let client = client();
    let (api, told) = world.context(&FREE);
    let api_runs = start(&FLOW, &["api"], &api);
    let api_url = url(&told).await;
    let (replica, told) = world.context(&FREE);
    let replica_runs = start(&FLOW, &["replica"], &replica);
    let replica_url = url(&told).await;
    let posted = json!({"PatientId": "7", "FirstName": "Anna", "LastName": "Doe",
        "IsPregnant": "False", "Sex": "Female"});
    let answer = client.post(&api_url).json(&posted).send().await.unwrap();
    assert_eq!(answer.status(), 202);
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer["PatientId"], "7");
    let shown: Value = until("shown", async || {
        let row = client.get(format!("{replica_url}/7")).send().await.unwrap();
        if row.status() == 200 { row.json().await.ok() } else { None }
    })
    .await;
    let mut expected = posted.clone();
    expected["UpdatedAt"] = answer["UpdatedAt"].clone();
    expected["Sequence"] = answer["Sequence"].clone();
    assert_eq!(shown, expected);

    let missing = client.get(format!("{replica_url}/8")).send().await.unwrap();
    assert_eq!(missing.status(), 404);
    assert_eq!(missing.headers()["content-type"], "application/problem+json");
    for (name, wrong) in [("PatientId", "a b"), ("IsPregnant", "maybe"), ("UpdatedAt", "soon")] {
        let mut body = posted.clone();
        body[name] = json!(wrong);
        let refused = client.post(&api_url).json(&body).send().await.unwrap();
        assert_eq!(refused.status(), 422);
        let problem: Value = refused.json().await.unwrap();
        assert!(problem["detail"].as_str().unwrap().contains(name), "{problem}");
    }
    end(&api, api_runs).await;
    end(&replica, replica_runs).await;
}

on_every_bus!(
    [UPDATES, PARKED];
    (the_later_update_wins_whichever_comes_first, what_is_posted_shows_at_the_replica)
);
