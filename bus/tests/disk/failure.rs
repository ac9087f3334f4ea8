//! A disk that takes no more: here a limit on the size of files, which makes real writes fail.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

use bus::{Bus, ErrorKind, Message, StreamConfig};

use super::{child, connect};

const BODY: usize = 320 << 10;
/// What a journal is made with and a little more: it grows further before the next one begins.
const FILE_LIMIT_KIB: usize = (64 << 10) + 64;
/// So much is written at most until it fails.
const ATTEMPTS: u64 = (256 << 20) / BODY as u64;

fn body(n: u64) -> Vec<u8> {
    n.to_be_bytes().into_iter().cycle().take(BODY).collect()
}

#[tokio::test]
async fn what_was_accepted_before_the_disk_failed_stands_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let test = child::command("failure::writes_until_the_disk_fails", folder.path(), "");
    // Without the signal that would end the process, a write beyond the limit is an error.
    let limit = format!("trap '' XFSZ; ulimit -f {FILE_LIMIT_KIB}; exec \"$0\" \"$@\"");
    let mut limited = Command::new("bash");
    limited.arg("-c").arg(limit).arg(test.get_program()).args(test.get_args());
    limited.envs(test.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = limited.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let said = text.lines().filter_map(|line| line.split_once('=')?.1.split_once(' '));
    let accepted: BTreeMap<u64, u64> =
        said.map(|(n, sequence)| (sequence.parse().unwrap(), n.parse().unwrap())).collect();
    assert!(accepted.len() > 10, "{text}");

    let bus = connect(folder.path()).await;
    let stream = bus.stream("s").await.unwrap();
    for (sequence, n) in &accepted {
        let held = stream.get(*sequence).await.unwrap().unwrap();
        assert!(held.payload.unwrap() == body(*n), "sequence {sequence}");
    }
    let info = stream.info().await.unwrap();
    // What was on its way when the disk failed.
    let surplus = info.messages - accepted.len() as u64;
    assert!(surplus <= 1, "{surplus} messages that nobody was told of");
    stream.publish(Message::new("s.a", body(0)).unwrap()).await.unwrap();
}

/// Run by itself, without a limit, nothing fails.
#[tokio::test]
async fn writes_until_the_disk_fails() {
    let folder = tempfile::tempdir().unwrap();
    let (url, attempts) = match child::given() {
        Some(url) => (url, ATTEMPTS),
        None => (super::url(folder.path(), ""), 8),
    };
    let bus = Bus::connect(&url).await.unwrap();
    let stream = bus.ensure_stream(&StreamConfig::parse("s", &["s.>"]).unwrap()).await.unwrap();
    for n in 0..attempts {
        match stream.publish(Message::new("s.a", body(n)).unwrap()).await {
            Ok(receipt) => {
                let line = format!("={n} {}\n", receipt.sequence);
                std::io::stdout().write_all(line.as_bytes()).unwrap();
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Failed, "{error}");
                // It is over, for everyone and for good.
                assert_eq!(bus.failed().await.kind(), ErrorKind::Failed);
                let again = stream.publish(Message::new("s.a", "small").unwrap()).await;
                assert_eq!(again.unwrap_err().kind(), ErrorKind::Failed);
                assert_eq!(stream.get(1).await.unwrap_err().kind(), ErrorKind::Failed);
                let anew = Bus::connect(&url).await.map(|_| ()).unwrap_err();
                assert_eq!(anew.kind(), ErrorKind::Failed);
                return;
            }
        }
    }
    assert!(child::given().is_none(), "the limit did not hold");
    assert_eq!(stream.info().await.unwrap().messages, attempts);
}
