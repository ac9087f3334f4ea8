//! What Lockgate has on the bus, against what this version makes and what is good for it.

use std::time::Duration;

use bus::{Bus, StreamConfig, Topology};
use lockgate_bridge::Bridges;
use lockgate_bridge::examine::Finding;

use super::nats::PATIENCE;
use crate::model::names;
use crate::store::{self, Drift, StoreOptions};

/// A publisher that repeats after a longer pause is stored twice.
const WINDOW: Duration = Duration::from_secs(30);
/// What is chosen when it is made: no drift.
const CHOSEN: [&str; 4] = ["max-bytes", "max-age", "replicas", "duplicate-window"];

/// Streams, buckets, and whether logs have room for the routes of a file.
pub(super) async fn look(bus: &Bus, clustered: bool, bridges: Option<&Bridges>) -> Vec<Finding> {
    let looked = async {
        let has = store::existing_topology(bus).await?;
        let drift = store::drift_of(bus, &has, &StoreOptions::default()).await?;
        Ok::<_, bus::Error>((has, drift))
    };
    let (has, drift) = match tokio::time::timeout(4 * PATIENCE, looked).await {
        Ok(Ok(looked)) => looked,
        Ok(Err(error)) => {
            return vec![Finding::fail("streams", error.to_string(), "see the lines above")];
        }
        Err(_) => {
            let says = format!("were not looked through within {} s", 4 * PATIENCE.as_secs());
            return vec![Finding::fail("streams", says, "look at the servers' load and leaders")];
        }
    };
    judge(&has, &drift, clustered, bridges)
}

fn judge(
    has: &Topology,
    drift: &[Drift],
    clustered: bool,
    bridges: Option<&Bridges>,
) -> Vec<Finding> {
    let mut found = vec![count(has)];
    let single = has.streams.iter().filter(|stream| stream.replicas == 1).count()
        + has.buckets.iter().filter(|bucket| bucket.replicas == 1).count();
    if clustered && single > 0 {
        let says = format!("{single} streams and buckets have one copy in a cluster");
        let change =
            "lockgate topology apply FILE --replicas 3: what has one copy waits for its server";
        found.push(Finding::warn("streams", says, change));
    }
    for log in has.streams.iter().filter(|stream| is_log(stream)) {
        let what = format!("log {}", log.name);
        if log.duplicate_window < WINDOW {
            let says = format!("remembers ids for {} s", log.duplicate_window.as_secs());
            let change = "raise duplicate-window (lockgate topology): a repeat that comes later is stored twice";
            found.push(Finding::warn(what, says, change));
        }
    }
    for drift in drift.iter().filter(|one| !CHOSEN.contains(&one.difference.field)) {
        let change = "lockgate topology show, edit and apply, where that is not meant";
        found.push(Finding::warn("streams", drift.to_string(), change));
    }
    found.extend(bridges.into_iter().flat_map(|bridges| room_for(has, bridges)));
    found
}

fn count(has: &Topology) -> Finding {
    let (streams, buckets) = (has.streams.len(), has.buckets.len());
    match streams + buckets {
        0 => Finding::ok("streams", "none yet: they are made when Lockgate first runs"),
        _ => {
            let logs = has.streams.iter().filter(|stream| is_log(stream)).count();
            Finding::ok(
                "streams",
                format!("{streams} streams, {logs} of them logs, and {buckets} buckets"),
            )
        }
    }
}

fn is_log(stream: &StreamConfig) -> bool {
    names::realm_of_log(&stream.name).is_some()
}

/// Logs that cannot hold what a bridge keeps.
fn room_for(has: &Topology, bridges: &Bridges) -> Vec<Finding> {
    let lacks = |realm: &str| {
        let reserved = lockgate_bridge::names::reserved_filter(realm).ok()?;
        let name = lockgate_bridge::names::log_stream(realm);
        let log = has.streams.iter().find(|stream| stream.name.as_str() == name)?;
        let captured = log.subjects.iter().any(|captured| captured.covers(&reserved));
        (!captured).then(|| {
            let says = format!("does not capture {reserved}, where a bridge keeps its positions");
            let change = "lockgate topology show, add the subject, and apply";
            Finding::fail(format!("log {name}"), says, change)
        })
    };
    let realms: std::collections::BTreeSet<&str> =
        bridges.routes.iter().map(|route| route.realm.as_str()).collect();
    realms.into_iter().filter_map(lacks).collect()
}

#[cfg(test)]
mod tests {
    use lockgate_bridge::examine::Level;

    use super::*;
    use crate::model::Realm;
    use crate::platform::Platform;
    use crate::store::Store;

    fn bridges() -> Bridges {
        let file = "[kafka]\nbrokers = \"a:1\"\n[[route]]\nname = \"r\"\nfrom = \"kafka:a\"\nto = \"people.t\"\n";
        Bridges::parse(file).unwrap()
    }

    #[tokio::test]
    async fn what_is_made_is_sound_and_what_was_changed_is_named() {
        let bus = Bus::connect("embedded:").await.unwrap();
        let none = look(&bus, false, None).await;
        assert!(none[0].says.starts_with("none yet"), "{none:?}");
        let store = Store::open(Platform::new(bus.clone()), StoreOptions::default()).await.unwrap();
        store.ensure_realm(&Realm::new("people").unwrap()).await.unwrap();
        let sound = look(&bus, false, Some(&bridges())).await;
        assert_eq!(sound.len(), 1, "{sound:?}");
        let count = format!("4 streams, 1 of them logs, and {} buckets", names::BUCKETS.len());
        assert_eq!((sound[0].level, sound[0].says.clone()), (Level::Ok, count));

        let alone = look(&bus, true, None).await;
        assert!(alone[1].says.ends_with("have one copy in a cluster"), "{alone:?}");

        let mut log = store
            .ensure_realm(&Realm::new("people").unwrap())
            .await
            .unwrap()
            .info()
            .await
            .unwrap()
            .config;
        log.duplicate_window = Duration::from_secs(1);
        log.subjects.truncate(1);
        bus.ensure_stream(&log).await.unwrap();
        let found = look(&bus, false, Some(&bridges())).await;
        let levels: Vec<Level> = found.iter().map(|one| one.level).collect();
        assert!(found.iter().any(|one| one.says.starts_with("remembers ids for 1 s")), "{found:?}");
        assert!(
            found
                .iter()
                .any(|one| one.level == Level::Fail && one.says.contains("bridge.people.>"))
        );
        assert!(levels.contains(&Level::Warn));
    }
}
