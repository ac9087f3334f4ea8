use super::*;
use crate::message::Message;
use crate::name::ConsumerName;

const LEASE: Duration = Duration::from_secs(10);

struct Bench {
    log: Log,
    cursor: Cursor,
    started: Instant,
}

impl Bench {
    fn new(messages: usize, change: impl FnOnce(&mut ConsumerConfig)) -> Self {
        let mut log = Log::new(Journal::default());
        for _ in 0..messages {
            log.append(Message::new("a", "x").unwrap(), SystemTime::UNIX_EPOCH);
        }
        let mut config = ConsumerConfig::new(ConsumerName::new("c").unwrap());
        config.ack_wait = LEASE;
        change(&mut config);
        let now = Now { instant: Instant::now(), time: SystemTime::UNIX_EPOCH };
        Self { cursor: Cursor::new(config, &log, now.time), log, started: now.instant }
    }

    fn at(&self, seconds: u64) -> Now {
        let elapsed = Duration::from_secs(seconds);
        Now { instant: self.started + elapsed, time: SystemTime::UNIX_EPOCH + elapsed }
    }

    fn take(&mut self, max: usize, seconds: u64) -> Vec<(u64, u32)> {
        let now = self.at(seconds);
        let taken = self.cursor.take(&self.log, max, now).unwrap();
        taken.iter().map(|raw| (raw.message.sequence, raw.attempt)).collect()
    }

    fn settle(&mut self, token: &str, how: Settlement, seconds: u64) -> Result<Settled> {
        let now = self.at(seconds);
        self.cursor.settle(&LeaseToken::from(token), &how, now).map(|(_, settled)| settled)
    }

    fn kind(&mut self, token: &str, how: Settlement, seconds: u64) -> ErrorKind {
        self.settle(token, how, seconds).unwrap_err().kind()
    }
}

#[test]
fn redeliveries_come_first_in_stream_order() {
    let mut bench = Bench::new(4, |_| {});
    assert_eq!(bench.take(3, 0), [(1, 1), (2, 1), (3, 1)]);
    bench.settle("3.1.0", Settlement::Retry(Duration::ZERO), 1).unwrap();
    bench.settle("1.1.0", Settlement::Retry(Duration::from_secs(1)), 1).unwrap();
    assert_eq!(bench.take(9, 2), [(1, 2), (3, 2), (4, 1)]);
    assert_eq!(bench.take(9, 10), [(2, 2)], "the second lease ends last");
}

#[test]
fn a_lease_ends_on_time_and_fences_the_old_token() {
    let mut bench = Bench::new(1, |_| {});
    assert_eq!(bench.take(1, 0), [(1, 1)]);
    assert!(bench.take(1, 9).is_empty());
    assert_eq!(bench.take(1, 10), [(1, 2)]);
    assert_eq!(bench.kind("1.1.0", Settlement::Ack, 11), ErrorKind::Stale);
    assert_eq!(bench.settle("1.2.0", Settlement::Ack, 11).unwrap(), Settled::Done);
    assert_eq!(bench.settle("1.2.0", Settlement::Ack, 11).unwrap(), Settled::Already);
    assert_eq!(bench.kind("1.2.0", Settlement::Extend, 11), ErrorKind::Stale);
    assert!(bench.take(1, 99).is_empty());
}

#[test]
fn extending_moves_the_end_of_the_lease() {
    let mut bench = Bench::new(1, |_| {});
    bench.take(1, 0);
    bench.settle("1.1.0", Settlement::Extend, 9).unwrap();
    assert!(bench.take(1, 18).is_empty());
    assert_eq!(bench.take(1, 19), [(1, 2)]);
}

#[test]
fn attempts_end_and_count_as_settled() {
    let mut bench = Bench::new(2, |config| config.max_attempts = Some(2));
    assert_eq!(bench.take(1, 0), [(1, 1)]);
    assert_eq!(bench.take(1, 10), [(1, 2)]);
    assert_eq!(bench.take(1, 20), [(2, 1)], "1 is used up");
    let now = bench.at(20);
    let info = bench.cursor.info(&bench.log, now);
    assert_eq!((info.settled_sequence, info.unsettled, info.pending), (1, 1, 0));
    bench.take(1, 30);
    bench.settle("2.2.0", Settlement::Retry(Duration::ZERO), 31).unwrap();
    assert!(bench.take(1, 99).is_empty());
}

#[test]
fn the_limit_holds_back_new_messages_but_not_redeliveries() {
    let mut bench = Bench::new(3, |config| config.max_unsettled = 2);
    assert_eq!(bench.take(9, 0), [(1, 1), (2, 1)]);
    assert!(bench.take(9, 1).is_empty());
    assert_eq!(bench.take(9, 10), [(1, 2), (2, 2)]);
    bench.settle("1.2.0", Settlement::Reject(String::from("bad")), 11).unwrap();
    assert_eq!(bench.take(9, 11), [(3, 1)]);
}

#[test]
fn a_message_that_left_the_log_is_not_delivered_again() {
    let mut bench = Bench::new(2, |_| {});
    bench.take(2, 0);
    bench.log.remove(1);
    assert_eq!(bench.take(9, 10), [(2, 2)]);
    let now = bench.at(10);
    assert_eq!(bench.cursor.info(&bench.log, now).unsettled, 1);
}

#[test]
fn tokens_of_others_are_refused() {
    let mut bench = Bench::new(1, |_| {});
    bench.take(1, 0);
    assert_eq!(bench.kind("one", Settlement::Ack, 0), ErrorKind::Invalid);
    assert_eq!(bench.kind("7.1.0", Settlement::Ack, 0), ErrorKind::Stale);
    assert_eq!(bench.cursor.settle(&token(1, 1, 0), &Settlement::Ack, bench.at(0)).unwrap().0, 1);
    assert_eq!(
        token(u64::MAX, u32::MAX, u32::MAX).as_str(),
        "18446744073709551615.4294967295.4294967295"
    );
}
