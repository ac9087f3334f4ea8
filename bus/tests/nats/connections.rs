//! Connections as people run them: TLS, every way to say who is there, rights, domains.

use std::fs;
use std::path::Path;

use bus::testkit::NatsServer;
use bus::{
    BucketConfig, BucketName, Bus, ConnectOptions, ErrorKind, JetStream, KvChange, Start,
    StreamConfig, Tls,
};
use nkeys::KeyPair;

use super::{PATIENCE, message, stream};

#[path = "../support/certificates.rs"]
mod certificates;

use certificates::Certificates;

/// Everything that a program does with a bus, once.
async fn works(bus: &Bus) {
    let s = stream(bus, "S", "s.>").await;
    let sequence = s.publish(message("s.a", "x").id("one")).await.unwrap().sequence;
    assert_eq!(s.get(sequence).await.unwrap().unwrap().payload.as_deref(), Some(&b"x"[..]));
    let consumer = bus.consumer("S", "c").open().await.unwrap();
    consumer.fetch(1, PATIENCE).await.unwrap().remove(0).ack_confirmed().await.unwrap();
    let ahead = bus.consumer("S", "d").prefetch(8).open().await.unwrap();
    ahead.fetch(1, PATIENCE).await.unwrap().remove(0).ack_confirmed().await.unwrap();
    let mut reader = s.reader(&[], Start::Beginning).await.unwrap();
    assert_eq!(reader.next(10, PATIENCE).await.unwrap().len(), 1);
    let state = BucketConfig::new(BucketName::new("state").unwrap());
    let state = bus.ensure_kv(&state).await.unwrap();
    let revision = state.create("a", "1").await.unwrap();
    state.update("a", "2", revision).await.unwrap();
    let mut watch = state.watch(">").await.unwrap();
    assert!(matches!(watch.next().await.unwrap(), KvChange::Put(entry) if entry.value == "2"));
    assert_eq!(watch.next().await.unwrap(), KvChange::Synced);
}

async fn refused(url: &str, options: ConnectOptions, says: &str) {
    let error = Bus::connect_with(url, options).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{says}: {error:?}");
    assert!(error.to_string().contains(says), "{error}");
    assert!(!format!("{error:?}").contains("secret"), "{error:?}");
}

fn with_tls(tls: Tls) -> ConnectOptions {
    ConnectOptions { tls, ..ConnectOptions::default() }
}

#[tokio::test]
async fn tls_1_3_with_certificates_on_both_sides() {
    let files = Certificates::new();
    let path = |name: &str| files.file(name).display().to_string();
    let server = NatsServer::start_with(&format!(
        "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true, min_version: \"1.3\" }}",
        path("server.pem"),
        path("server-key.pem"),
        path("roots.pem"),
    ))
    .await
    .unwrap();
    let url = server.url();
    let tls = Tls {
        roots: Some(files.file("roots.pem")),
        certificate: Some(files.file("client.pem")),
        key: Some(files.file("client-key.pem")),
        required: false,
    };
    works(&Bus::connect_with(&url, with_tls(tls.clone())).await.unwrap()).await;

    let nobody = Tls { certificate: None, key: None, ..tls.clone() };
    let error = Bus::connect_with(&url, with_tls(nobody)).await.err().unwrap();
    assert!(matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Unavailable), "{error:?}");
    let foreign = Certificates::new();
    let others = Tls { roots: Some(foreign.file("roots.pem")), ..tls.clone() };
    refused(&url, with_tls(others), "certificate").await;
    let no_key = Tls { key: None, ..tls.clone() };
    refused(&url, with_tls(no_key), "a client certificate needs its key").await;
    let missing = Tls { roots: Some(files.file("none.pem")), ..tls.clone() };
    refused(&url, with_tls(missing), "none.pem cannot be read").await;
    fs::write(files.file("no.pem"), "secret words").unwrap();
    let no_pem = Tls { roots: Some(files.file("no.pem")), ..tls };
    refused(&url, with_tls(no_pem), "no.pem is no PEM file").await;
}

/// Who wants TLS and meets a server without it does not go on in clear text.
#[tokio::test]
async fn tls_that_is_wanted_is_never_left_out() {
    let server = NatsServer::start().await.unwrap();
    let wanted = with_tls(Tls { required: true, ..Tls::default() });
    let error = Bus::connect_with(&server.url(), wanted).await.err().unwrap();
    assert!(matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Unavailable), "{error:?}");
}

/// One user by nkey who may do no more than a program needs, with replies of its own; another one
/// by token, a third by password.
#[tokio::test]
async fn an_nkey_with_the_least_rights() {
    let key = KeyPair::new_user();
    let server = NatsServer::start_with(&format!(
        "authorization {{ users: [ {{ nkey: {}, permissions: {{\n\
         publish: [ \"$JS.API.>\", \"$JS.ACK.>\", \"s.>\", \"$KV.state.>\" ]\n\
         subscribe: [ \"reply.>\" ] }} }} ] }}",
        key.public_key()
    ))
    .await
    .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let seed = folder.path().join("user.nk");
    fs::write(&seed, format!("# of a test\n{}\n", key.seed().unwrap())).unwrap();
    let options = ConnectOptions {
        nkey_seed: Some(seed.clone()),
        inbox_prefix: Some(String::from("reply.of-billing")),
        ..ConnectOptions::default()
    };
    works(&Bus::connect_with(&server.url(), options.clone()).await.unwrap()).await;

    let other = folder.path().join("other.nk");
    fs::write(&other, KeyPair::new_user().seed().unwrap()).unwrap();
    let other = ConnectOptions { nkey_seed: Some(other), ..options.clone() };
    refused(&server.url(), other, "refused the credentials").await;
    let none = folder.path().join("none.nk");
    fs::write(&none, "secret words").unwrap();
    let none = ConnectOptions { nkey_seed: Some(none), ..options.clone() };
    refused(&server.url(), none, "holds no seed of a user").await;
    let two = ConnectOptions { token: Some(String::from("secret")), ..options.clone() };
    refused(&server.url(), two, "one proof of who is there").await;
    let spaces = ConnectOptions { inbox_prefix: Some(String::from("a b")), ..options };
    refused(&server.url(), spaces, "the inbox prefix").await;
}

#[tokio::test]
async fn a_token_and_a_user() {
    let token =
        |token: &str| ConnectOptions { token: Some(token.to_owned()), ..ConnectOptions::default() };
    let server = NatsServer::start_with("authorization { token: open-sesame }").await.unwrap();
    works(&Bus::connect_with(&server.url(), token("open-sesame")).await.unwrap()).await;
    refused(&server.url(), token("a-secret"), "refused the credentials").await;

    let user = |password: &str| ConnectOptions {
        user: Some((String::from("anna"), password.to_owned())),
        ..ConnectOptions::default()
    };
    let extra = "authorization { users: [ { user: anna, password: open-sesame } ] }";
    let server = NatsServer::start_with(extra).await.unwrap();
    works(&Bus::connect_with(&server.url(), user("open-sesame")).await.unwrap()).await;
    refused(&server.url(), user("a-secret"), "refused the credentials").await;
}

#[tokio::test]
async fn jetstream_in_a_domain_and_behind_a_prefix() {
    let server = NatsServer::start_in_domain("hub").await.unwrap();
    let at = |jetstream| ConnectOptions { jetstream: Some(jetstream), ..ConnectOptions::default() };
    let hub = JetStream::Domain(String::from("hub"));
    works(&Bus::connect_with(&server.url(), at(hub)).await.unwrap()).await;
    let prefix = JetStream::ApiPrefix(String::from("$JS.hub.API"));
    let bus = Bus::connect_with(&server.url(), at(prefix)).await.unwrap();
    assert_eq!(bus.stream("S").await.unwrap().info().await.unwrap().messages, 1);

    let elsewhere = at(JetStream::Domain(String::from("elsewhere")));
    let bus = Bus::connect_with(&server.url(), elsewhere).await.unwrap();
    let declared = bus.ensure_stream(&StreamConfig::parse("S", &["s.>"]).unwrap()).await;
    assert_eq!(declared.err().map(|error| error.kind()), Some(ErrorKind::Unavailable));
    let bad = at(JetStream::Domain(String::from("a b")));
    refused(&server.url(), bad, "is no beginning of the JetStream API's subjects").await;
}

/// A JWT as the server reads them (NATS JWT v2): claims signed by `signer`.
fn jwt(signer: &KeyPair, subject: &KeyPair, nats: &str) -> String {
    let (iss, sub) = (signer.public_key(), subject.public_key());
    let head = encoded(br#"{"typ":"JWT","alg":"ed25519-nkey"}"#);
    let claims = format!(
        r#"{{"jti":"x","iat":1700000000,"iss":"{iss}","name":"n","sub":"{sub}","nats":{nats}}}"#
    );
    let signed = format!("{head}.{}", encoded(claims.as_bytes()));
    let signature = encoded(&signer.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

fn encoded(bytes: &[u8]) -> String {
    data_encoding::BASE64URL_NOPAD.encode(bytes)
}

fn write_credentials(file: &Path, jwt: &str, user: &KeyPair) {
    let seed = user.seed().unwrap();
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    );
    fs::write(file, text).unwrap();
}

/// An operator, an account with JetStream, a user: the user's file lets in, another account's not.
#[tokio::test]
async fn credentials_of_a_user_of_an_account() {
    let (operator, account, user) =
        (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_user());
    let of_operator = jwt(&operator, &operator, r#"{"type":"operator","version":2}"#);
    let limits = r#"{"subs":-1,"data":-1,"payload":-1,"imports":-1,"exports":-1,"wildcards":true,"conn":-1,"leaf":-1,"mem_storage":-1,"disk_storage":-1,"streams":-1,"consumer":-1}"#;
    let of_account =
        format!(r#"{{"type":"account","version":2,"limits":{limits},"default_permissions":{{}}}}"#);
    let of_account = jwt(&operator, &account, &of_account);
    let user_claims = r#"{"type":"user","version":2,"subs":-1,"data":-1,"payload":-1}"#;
    // The system's account has no JetStream, so it is another one.
    let system = KeyPair::new_account();
    let without = limits.replace("\"mem_storage\":-1,\"disk_storage\":-1,", "");
    let of_system = format!(r#"{{"type":"account","version":2,"limits":{without}}}"#);
    let of_system = jwt(&operator, &system, &of_system);
    let server = NatsServer::start_with(&format!(
        "operator: {of_operator}\nresolver: MEMORY\n\
         resolver_preload: {{ {}: {of_account}, {}: {of_system} }}\nsystem_account: {}",
        account.public_key(),
        system.public_key(),
        system.public_key(),
    ))
    .await
    .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("user.creds");
    write_credentials(&file, &jwt(&account, &user, user_claims), &user);
    let options = |file| ConnectOptions { credentials: Some(file), ..ConnectOptions::default() };
    works(&Bus::connect_with(&server.url(), options(file)).await.unwrap()).await;

    let stranger = KeyPair::new_account();
    let file = folder.path().join("stranger.creds");
    write_credentials(&file, &jwt(&stranger, &user, user_claims), &user);
    refused(&server.url(), options(file), "refused the credentials").await;
}
