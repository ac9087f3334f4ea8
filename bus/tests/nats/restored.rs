//! A stream that is put back from a backup under an open reader.

use std::fs;
use std::path::Path;

use bus::{ErrorKind, Start};

use super::{PATIENCE, message, server, stream};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// The stream is past the reader's position again before the reader looks, so that neither its
/// creation time nor its end tells.
#[tokio::test]
async fn a_reader_does_not_go_on_in_another_history() {
    let (mut server, bus) = server().await;
    let log = stream(&bus, "LOG", "log.>").await;
    let publish = async |what: &str, count: usize| {
        for at in 0..count {
            log.publish(message("log.x", format!("{what} {at}"))).await.unwrap();
        }
    };
    let messages = server.store().join("jetstream/$G/streams/LOG/msgs");
    let backup = server.store().join("backup");
    publish("old", 5).await;
    server.stop().await.unwrap();
    copy(&messages, &backup);
    server.restart().await.unwrap();
    publish("lost", 5).await;
    let mut reader = log.reader(&[], Start::Beginning).await.unwrap();
    let mut read = 0;
    while read < 10 {
        read += reader.next(100, PATIENCE).await.unwrap().len();
    }
    server.stop().await.unwrap();
    fs::remove_dir_all(&messages).unwrap();
    copy(&backup, &messages);
    server.restart().await.unwrap();
    publish("new", 8).await;
    assert_eq!(log.info().await.unwrap().last_sequence, 13);
    let error = reader.next(100, PATIENCE).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}
