//! Who may connect: SASL PLAIN, SCRAM over TLS, and certificates on both sides.

use std::time::Duration;

use bus::testkit::KafkaBroker;
use bus::{Bus, ConnectOptions, ErrorKind, Sasl, Tls};
use tokio::time::Instant;

use super::{PATIENCE, message, stream};

#[path = "../support/certificates.rs"]
mod certificates;

use certificates::Certificates;

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

/// TLS on the listener of clients, with the certificate of the test's own authority.
fn tls_properties(files: &Certificates, protocol: &str) -> String {
    format!(
        "listener.security.protocol.map=PLAINTEXT:{protocol},CONTROLLER:PLAINTEXT\n\
         inter.broker.listener.name=PLAINTEXT\n\
         ssl.keystore.type=PEM\nssl.keystore.location={}\n\
         ssl.truststore.type=PEM\nssl.truststore.location={}\n",
        files.file("server-both.pem").display(),
        files.file("roots.pem").display(),
    )
}

async fn works(bus: &Bus) {
    let stream = stream(bus, |_| {}).await;
    stream.publish(message(&stream, "a", "x")).await.unwrap();
    let consumer = bus.consumer(stream.name(), "c").open().await.unwrap();
    consumer.fetch(1, PATIENCE).await.unwrap().remove(0).ack_confirmed().await.unwrap();
}

async fn refused(url: &str, options: ConnectOptions, says: &str) {
    let error = Bus::connect_with(url, options).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{says}: {error:?}");
    assert!(error.to_string().contains(says), "{error}");
    assert!(!format!("{error:?}").contains("secret"), "{error:?}");
}

/// The client library only logs what is wrong with a certificate.
async fn not_trusted(url: &str, options: ConnectOptions) {
    let error = Bus::connect_with(url, options).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.to_string().contains("does not trust the other"), "{error}");
}

#[tokio::test]
async fn scram_over_tls() {
    let files = Certificates::new();
    let jaas = "org.apache.kafka.common.security.scram.ScramLoginModule required \
                username=\"broker\" password=\"itself\";";
    let properties = tls_properties(&files, "SASL_SSL")
        + "sasl.enabled.mechanisms=SCRAM-SHA-512\n\
           sasl.mechanism.inter.broker.protocol=SCRAM-SHA-512\n\
           listener.name.plaintext.scram-sha-512.sasl.jaas.config="
        + jaas
        + "\n";
    let users = [
        "SCRAM-SHA-512=[name=broker,password=itself]",
        "SCRAM-SHA-512=[name=anna,password=right-secret]",
    ];
    let broker = KafkaBroker::start_with_users(&properties, &users).await.unwrap();
    let options = |password: &str, sasl, roots| ConnectOptions {
        user: Some((String::from("anna"), password.to_owned())),
        sasl,
        tls: Tls { roots: Some(roots), ..Tls::default() },
        ..ConnectOptions::default()
    };
    let (url, roots) = (broker.url(), files.file("roots.pem"));
    let right = options("right-secret", Sasl::ScramSha512, roots.clone());
    works(&Bus::connect_with(&url, right).await.unwrap()).await;

    let wrong = options("wrong-secret", Sasl::ScramSha512, roots.clone());
    refused(&url, wrong, "refused the credentials").await;
    let other = options("right-secret", Sasl::ScramSha256, roots.clone());
    refused(&url, other, "refused the credentials").await;
    let foreign = Certificates::new();
    let other = options("right-secret", Sasl::ScramSha512, foreign.file("roots.pem"));
    not_trusted(&url, other).await;
    let other = options("right-secret", Sasl::ScramSha512, files.file("none.pem"));
    refused(&url, other, "none.pem cannot be read").await;
}

#[tokio::test]
async fn a_certificate_says_who_is_there() {
    let files = Certificates::new();
    let properties = tls_properties(&files, "SSL") + "ssl.client.auth=required\n";
    let broker = KafkaBroker::start_with(&properties).await.unwrap();
    let tls = Tls {
        roots: Some(files.file("roots.pem")),
        certificate: Some(files.file("client.pem")),
        key: Some(files.file("client-key.pem")),
        required: true,
    };
    let options = |tls| ConnectOptions { tls, ..ConnectOptions::default() };
    works(&Bus::connect_with(&broker.url(), options(tls.clone())).await.unwrap()).await;

    let nobody = Tls { certificate: None, key: None, ..tls.clone() };
    not_trusted(&broker.url(), options(nobody)).await;
    let no_key = Tls { key: None, ..tls };
    refused(&broker.url(), options(no_key), "a client certificate needs its key").await;
    let of_nats = ConnectOptions { token: Some(String::from("secret")), ..Default::default() };
    refused(&broker.url(), of_nats, "a token is of no use to kafka://").await;
}
