//! The profile flow: two updates of a patient at almost the same moment arrive the wrong way round,
//! with odd times, and the replica ends with the later one.
//!
//! `cargo run -p lockgate-examples --bin 14_profile [-- --bus URL]`, where URL is
//! `nats://127.0.0.1:4222` or `kafka://127.0.0.1:9092`. Over HTTP: `cargo run -- flow profile`.

use std::time::Duration;

use bus::{Bus, Message};
use lockgate_examples::{Failure, bus_url, remove};
use lockgate_flows::profile::{FLOW, PARKED, REPLICA_PORT, ROWS, Row, UPDATES, UPDATES_SUBJECT};
use lockgate_flows::{Context, run};

const LATER: &str = r#"{"patientID": 1, "firstName": "John", "lastName": "Doe",
    "isPregnant": true, "updatedAt": "2006-01-02T15:00:00.500000000Z10:00"}"#;
const EARLIER: &str = r#"{"patientID": 1, "firstName": "John", "lastName": "Doe",
    "isPregnant": false, "updatedAt": "2006-01-02T15:00:00.000000000Z10:00"}"#;
const MALFORMED: &str = r#"{"patientID": 1, "firstName": "John", "lastName": "Doe",
    "isPregnant": false, "updatedAt": "three o'clock"}"#;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let bus = Bus::connect(&bus_url()?).await?;
    for stream in [UPDATES, PARKED] {
        remove(&bus, stream).await?; // of an earlier run
    }
    // The rows may be kept elsewhere than the events: Kafka could not.
    let state = Bus::connect("embedded:").await?;
    let mut context = Context::new(bus.clone(), state.clone());
    context.settings.set(&REPLICA_PORT, "0")?;
    (FLOW.prepare)(context.clone()).await?;
    let updates = bus.stream(UPDATES).await?;
    for update in [LATER, EARLIER, MALFORMED] {
        updates.publish(Message::new(UPDATES_SUBJECT, update)?.key("1")).await?;
    }

    let replica = FLOW.role("replica").ok_or("profile has a replica")?;
    let count = |name| context.counter(name).get();
    let until_all_are_seen = async {
        while count("updates applied") + count("older than the row") + count("updates parked") < 3 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        context.shutdown.cancel();
        Ok::<_, Failure>(())
    };
    let roles = [replica];
    tokio::try_join!(run(&FLOW, &roles, context.clone()), until_all_are_seen)?;

    if let Some((row, _)) = state.kv(ROWS).await?.get_json::<Row>("patient.1").await? {
        let Row { profile, .. } = row;
        println!("{} is pregnant: {}", profile.first_name, profile.is_pregnant);
        println!("since {}", profile.updated_at);
    }
    for letter in bus.dead_letters(PARKED).await?.list(None, 10).await? {
        println!("parked: {}", letter.reason);
    }

    for stream in [UPDATES, PARKED] {
        remove(&bus, stream).await?;
    }
    Ok(bus.close().await?)
}
