//! Orders and tabs.

use std::collections::BTreeMap;

use bus::Message;
use lockgate_flows::medicine::{
    DELIVERIES, EVERY, Ended, FLOW, ORDER_COUNT, ORDERS, ORDERS_SUBJECT, PARKED, POLL, TabItem,
    TabsOrder, WAIT,
};

use crate::support::{World, on_every_bus, run};

/// How often each tab of each order was delivered.
fn counted(tabs: Vec<TabItem>) -> BTreeMap<String, BTreeMap<u32, u32>> {
    let mut counted: BTreeMap<String, BTreeMap<u32, u32>> = BTreeMap::new();
    for tab in tabs {
        *counted.entry(tab.order).or_default().entry(tab.number).or_default() += 1;
    }
    counted
}

/// Makers end after one order each, whether it can be made or not.
async fn each_maker_takes_one_order(world: &World) {
    let (context, _) = world.context(&[]);
    (FLOW.prepare)(context).await.unwrap();
    let orders = world.bus.stream(ORDERS).await.unwrap();
    let mut wanted = BTreeMap::new();
    for (id, tabs) in [("a1", 1), ("a2", 30), ("a3", 7)] {
        let order = TabsOrder { id: id.to_owned(), patient: String::from("anna"), tabs };
        let order = Message::json(ORDERS_SUBJECT, &order).unwrap().key(id);
        orders.publish(order).await.unwrap();
        wanted.insert(id.to_owned(), (1..=tabs).map(|number| (number, 1)).collect());
    }
    for body in ["{\"id\":\"a4\",\"patient\":\"anna\",\"tabs\":31}", "a handful"] {
        let order = Message::new(ORDERS_SUBJECT, body.to_owned()).unwrap().key("a4");
        orders.publish(order).await.unwrap();
    }
    let mut makers = tokio::task::JoinSet::new();
    let (context, told) = world.context(&[(&WAIT, "40s")]);
    for _ in 0..5 {
        let context = context.clone();
        makers.spawn(async move { run(&FLOW, &["maker"], context).await });
    }
    while let Some(ended) = makers.join_next().await {
        ended.unwrap();
    }
    let mut ended = told.values("ended");
    ended.sort_by_key(ToString::to_string);
    assert_eq!(ended, ["made", "made", "made", "parked", "parked"]);
    assert!(told.values("took_ms").iter().all(|took| took.as_u64() >= Some(2000)));
    let reasons: Vec<_> = told.values("reason").iter().map(ToString::to_string).collect();
    assert!(
        reasons.iter().any(|why| why.contains("31 tabs: an order is of 1 to 30")),
        "{reasons:?}"
    );
    assert!(reasons.iter().any(|why| why.contains("it is no tabs order")), "{reasons:?}");

    assert_eq!(counted(world.all(DELIVERIES, 38).await), wanted);
    let parked = world.bus.dead_letters(PARKED).await.unwrap().list(None, 10).await.unwrap();
    let mut parked: Vec<_> = parked.into_iter().map(|letter| letter.reason).collect();
    parked.sort();
    assert_eq!(parked.len(), 2);
    assert_eq!(parked[0], "31 tabs: an order is of 1 to 30");

    let (context, told) = world.context(&[]);
    run(&FLOW, &["maker"], context).await;
    assert_eq!(told.values("ended"), ["no-order"], "there is nothing left, and it ends at once");
}

/// Patients and makers together: everything that is ordered is made once, and then they end.
async fn what_is_ordered_is_made(world: &World) {
    let (context, told) =
        world.context(&[(&ORDER_COUNT, "6"), (&EVERY, "100ms"), (&POLL, "200ms")]);
    let counters = context.counters.clone();
    run(&FLOW, &["patient", "makers", "maker"], context).await;
    let count = |name: &'static str| counters.counter(name).get();
    assert_eq!((count("orders"), count("orders made")), (6, 6));
    let tabs = count("tabs ordered");
    let delivered: Vec<TabItem> = world.all(DELIVERIES, usize::try_from(tabs).unwrap()).await;
    assert_eq!(delivered.len() as u64, tabs);
    assert_eq!(count("tabs delivered"), tabs);
    let counted = counted(delivered);
    assert_eq!(counted.len(), 6);
    assert!(counted.values().all(|tabs| tabs.values().all(|times| *times == 1)), "{counted:?}");
    assert_eq!(told.values("orders"), [6], "the phase is told of");
}

/// A maker's order that it did not finish is made by the next, and nothing of it twice.
#[tokio::test(start_paused = true)]
async fn an_order_whose_maker_dies_is_made_by_the_next() {
    let world = World::embedded().await;
    let (context, _) = world.context(&[]);
    (FLOW.prepare)(context).await.unwrap();
    let order = TabsOrder { id: String::from("a1"), patient: String::from("anna"), tabs: 12 };
    let order = Message::json(ORDERS_SUBJECT, &order).unwrap();
    world.bus.stream(ORDERS).await.unwrap().publish(order).await.unwrap();
    let (context, told) = world.context(&[]);
    let dies = run(&FLOW, &["maker"], context);
    let half_way = std::time::Duration::from_secs(1);
    assert!(tokio::time::timeout(half_way, dies).await.is_err());
    assert_eq!(told.values("taken"), ["a1"]);
    let (context, told) = world.context(&[(&WAIT, "1m")]);
    run(&FLOW, &["maker"], context).await;
    assert_eq!(told.values("attempt"), [2]);
    let delivered = counted(world.all(DELIVERIES, 12).await);
    assert_eq!(delivered["a1"], (1..=12).map(|number| (number, 1)).collect());
}

/// A tab that takes long outlasts the lease on its order, which is extended meanwhile.
#[tokio::test(start_paused = true)]
async fn an_order_stays_its_makers_however_long_a_tab_takes() {
    use lockgate_flows::medicine::TAB_TIME;

    let world = World::embedded().await;
    let settings = [(&ORDER_COUNT, "1"), (&TAB_TIME, "50s")];
    let (context, _) = world.context(&settings);
    run(&FLOW, &["patient"], context).await;
    let (context, told) = world.context(&settings);
    run(&FLOW, &["maker"], context).await;
    assert_eq!(
        (told.values("ended"), told.values("attempt")),
        (vec!["made".into()], vec![1.into()])
    );
    let (context, told) = world.context(&[(&TAB_TIME, "1s")]);
    let refused = lockgate_flows::run(&FLOW, &[FLOW.role("maker").unwrap()], context).await;
    assert!(refused.unwrap_err().to_string().contains("no tab can be made in less than 2 s"));
    assert!(told.values("ended").is_empty());
}

#[test]
fn a_summary_says_how_it_ended() {
    assert_eq!(serde_json::to_string(&Ended::NoOrder).unwrap(), "{\"ended\":\"no-order\"}");
}

on_every_bus!([ORDERS, DELIVERIES, PARKED]; (each_maker_takes_one_order, what_is_ordered_is_made));
