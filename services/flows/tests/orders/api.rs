//! The endpoints, and what they refuse.

use reqwest::Method;
use serde_json::{Value, json};

use crate::client::{CARD, answer, tea, until};
use crate::truth;
use crate::world::{World, eventually};

fn stages(shown: &Value) -> Vec<&str> {
    let steps = shown["journey"].as_array().unwrap();
    steps.iter().map(|step| step["stage"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_from_its_creation_to_its_delivery() {
    let world = World::small().await;
    let client = world.client();
    let made = until(&[201], || client.order("1", &tea("anna@mail.org"))).await;
    let order = made["orderId"].as_str().unwrap();
    assert_eq!(made["paymentUrl"], format!("http://pay.test/payments/{order}"));
    assert_eq!(made["amountCents"], 900);

    // Repeated, it is the same order; with another body it is a mistake.
    let (status, again) = answer(client.order("1", &tea("anna@mail.org"))).await;
    assert_eq!((status, &again["orderId"]), (200, &made["orderId"]));
    let (status, problem) = answer(client.order("1", &tea("ben@mail.org"))).await;
    assert_eq!(status, 422);
    assert!(problem["type"].as_str().unwrap().ends_with("/idempotency-key-reused"));

    // It cannot be with the courier yet. A card that is none is declined, and the next attempt
    // counts, once.
    assert_eq!(answer(client.report(order, "shipped")).await.0, 404);
    let (status, declined) = answer(client.pay(order, 1, "4242 4242 4242 4241")).await;
    assert_eq!((status, &declined["nextAttempt"]), (402, &json!(2)));
    let (status, paid) = answer(client.pay(order, 2, CARD)).await;
    assert_eq!((status, &paid["paymentId"]), (200, &json!(format!("{order}.2"))));
    assert_eq!(answer(client.pay(order, 2, CARD)).await, (200, paid.clone()));
    let (status, problem) = answer(client.pay(order, 3, CARD)).await;
    assert_eq!(status, 409);
    assert_eq!(problem["detail"], "it is paid already, by attempt 2");
    assert_eq!(answer(client.payment(order)).await, (200, paid));

    // A report that is too early is held, and takes effect in its turn.
    until(&[202], || client.report(order, "delivered")).await;
    eventually("the early report is held", async || {
        answer(client.look(order)).await.1["held"] == json!(["delivered"])
    })
    .await;
    until(&[202], || client.report(order, "shipped")).await;
    until(&[202], || client.report(order, "shipped")).await;
    truth::all_told(&client, order).await;
    let (_, shown) = answer(client.look(order)).await;
    let names = lockgate_flows::orders::Stage::ALL.map(|stage| stage.as_str());
    assert_eq!(stages(&shown), names);
    assert!(shown.get("held").is_none() && !shown.to_string().contains("Anna"), "{shown}");

    // Without a crash everything is said exactly once, on the wire too.
    truth::check_streams(&world, &[order.to_owned()], true).await;
    let (mails, texts) = (world.mails.mails(), world.texts.sent());
    assert_eq!((mails.len(), texts.len()), (7, 7));
    let created = mails.iter().find(|mail| mail.id.ends_with("orderCreated")).unwrap();
    assert_eq!(created.to, "anna@mail.org");
    assert!(created.text.contains("is created"), "{}", created.text);
    assert!(texts.iter().all(|text| text.to == "+4930123456"));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_ordered_is_said_with_the_field() {
    let world = World::small().await;
    let client = world.client();
    let mut wrong = tea("anna@mail.org");
    wrong["items"][0]["quantity"] = json!(0);
    until(&[422], || client.order("1", &wrong)).await;
    let (_, problem) = answer(client.order("1", &wrong)).await;
    assert_eq!(problem["field"], "items[0].quantity");
    wrong["items"][0] = json!({ "name": "tea", "quantity": "two", "priceCents": 1 });
    let (status, problem) = answer(client.order("1", &wrong)).await;
    assert_eq!((status, &problem["field"]), (422, &json!("items[0].quantity")));

    let post = |body: String| {
        let request = client.raw(Method::POST, "/orders").header("idempotency-key", "2");
        request.header("content-type", "application/json").body(body)
    };
    assert_eq!(answer(post("{".into())).await.0, 400);
    assert_eq!(answer(post(format!("{} x", tea("anna@mail.org")))).await.0, 400);
    assert_eq!(answer(post(" ".repeat(65 * 1024))).await.0, 413);
    let keyless = client.raw(Method::POST, "/orders").json(&tea("anna@mail.org"));
    let (status, problem) = answer(keyless).await;
    assert_eq!(status, 400);
    assert!(problem["detail"].as_str().unwrap().contains("idempotency-key"));
    let plain = client.raw(Method::POST, "/orders").header("idempotency-key", "2").body("{}");
    assert_eq!(answer(plain).await.0, 415);
    assert_eq!(answer(client.raw(Method::DELETE, "/orders")).await.0, 405);
    for nowhere in ["/", "/orders/x", "/orders/aaaaaaaaaaaaaaaaaaaaaaaaaa"] {
        assert_eq!(answer(client.raw(Method::GET, nowhere)).await.0, 404, "{nowhere}");
    }
    assert!(world.mails.mails().is_empty());
    world.stop().await;
}
