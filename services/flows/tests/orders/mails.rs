//! A mail server that cannot now, or will never, take an e-mail.

use bus::dead_letter::Origin;
use lockgate_flows::orders::DEAD_LETTERS;

use crate::client::{tea, until};
use crate::world::{World, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_for_now_is_tried_again_and_one_for_good_is_parked() {
    let world = World::small().await;
    let client = world.client();
    until(&[201], || client.order("1", &tea("busy@mail.org"))).await;
    let gone = until(&[201], || client.order("2", &tea("gone@mail.org"))).await;
    eventually("the e-mail to the busy one", async || {
        world.mails.mails().iter().any(|mail| mail.to == "busy@mail.org")
    })
    .await;
    let dead = world.bus.dead_letters(DEAD_LETTERS).await.unwrap();
    let origin = Origin::new("orders-created", "email").unwrap();
    eventually("the e-mail to the one who is gone is parked", async || {
        !dead.list(Some(&origin), 10).await.unwrap().is_empty()
    })
    .await;
    let parked = dead.list(Some(&origin), 10).await.unwrap();
    assert!(parked[0].reason.contains("550") || parked[0].reason.contains("no such user"));
    assert!(world.mails.mails().iter().all(|mail| mail.to != "gone@mail.org"));
    // The other channel does not mind.
    let order = gone["orderId"].as_str().unwrap();
    eventually("the text", async || {
        let id = format!("{order}.orderCreated");
        world.texts.sent().iter().any(|text| text.id == id)
    })
    .await;
    world.stop().await;
}

/// What others put on the topics is parked with its reason, and holds nothing up.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_event_and_what_is_of_no_order_is_parked() {
    let world = World::small().await;
    let stray = format!(
        r#"{{"specversion":"1.0","id":"x","source":"/x","type":"payments.made","subject":"{}",
            "time":"2026-11-29T10:00:00Z","data":{{"status":"paymentMade"}}}}"#,
        "a".repeat(26)
    );
    let made = world.bus.stream("payments-made").await.unwrap();
    for body in ["no event", &stray] {
        made.publish(bus::Message::new("payments-made", body.to_owned()).unwrap()).await.unwrap();
    }
    let dead = world.bus.dead_letters(DEAD_LETTERS).await.unwrap();
    let origin = Origin::new("payments-made", "ordering").unwrap();
    eventually("both are parked", async || dead.list(Some(&origin), 10).await.unwrap().len() == 2)
        .await;
    let reasons = dead.list(Some(&origin), 10).await.unwrap();
    assert!(reasons.iter().any(|letter| letter.reason.contains("there is no order aaaa")));
    let client = world.client();
    until(&[201], || client.order("1", &tea("anna@mail.org"))).await;
    world.stop().await;
}
