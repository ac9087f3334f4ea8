//! Who may connect: SASL PLAIN.

use std::time::Duration;

use bus::testkit::KafkaBroker;
use bus::{Bus, ConnectOptions, ErrorKind};
use tokio::time::Instant;

use super::{PATIENCE, message, stream};

/// The listener of clients asks for a user and password; anna has one, and the broker itself.
const PROPERTIES: &str = "\
listener.security.protocol.map=PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
sasl.enabled.mechanisms=PLAIN
sasl.mechanism.inter.broker.protocol=PLAIN
listener.name.plaintext.plain.sasl.jaas.config=\
org.apache.kafka.common.security.plain.PlainLoginModule required \
username=\"broker\" password=\"itself\" user_broker=\"itself\" user_anna=\"right-secret\";
";

async fn connect(url: &str, user: Option<(&str, &str)>) -> bus::Result<Bus> {
    let user = user.map(|(user, password)| (user.to_owned(), password.to_owned()));
    Bus::connect_with(url, ConnectOptions { user, ..Default::default() }).await
}

#[tokio::test]
async fn a_user_is_let_in_with_the_right_password_only() {
    let broker = KafkaBroker::start_with(PROPERTIES).await.unwrap();
    let url = broker.url();
    let bus = connect(&url, Some(("anna", "right-secret"))).await.unwrap();
    let stream = stream(&bus, |_| {}).await;
    stream.publish(message(&stream, "a", "x")).await.unwrap();
    let consumer = bus.consumer(stream.name(), "c").open().await.unwrap();
    let delivery = consumer.fetch(1, PATIENCE).await.unwrap().remove(0);
    delivery.ack_confirmed().await.unwrap();

    for (user, password) in [("anna", "wrong-secret"), ("berta", "right-secret")] {
        let begun = Instant::now();
        let error = connect(&url, Some((user, password))).await.err().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(30), "refused after {:?}", begun.elapsed());
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        let says = format!("{url} refused the credentials: check user and password");
        assert_eq!(error.to_string(), says);
        assert!(!format!("{error:?}").contains("secret"), "{error:?}");
    }

    // The broker hangs up on those who say nothing: all that they see is one that does not answer.
    let error = connect(&url, None).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}
