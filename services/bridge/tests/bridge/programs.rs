//! Programs of others on both sides: kcat, librdkafka's Python client, and Kafka's own console tools.
//! What they wrote comes through a log and out again, and they read the same in both topics.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use bus::testkit::KafkaBroker;
use serde_json::Value;

use super::foreign::{make_topic, read};
use super::world::{World, route, unique};

const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];
/// Between fields and behind records, where a program can be told.
const FIELD: &str = "<\u{1f}>";
const RECORD: &str = "<\u{1e}>";
/// Records that kcat and the console producer write with each codec.
const EACH: usize = 60;

fn python() -> PathBuf {
    let python = std::env::var_os("LOCKGATE_PYTHON").map(PathBuf::from).unwrap_or_else(|| {
        let home = std::env::var_os("HOME").expect("HOME is set");
        PathBuf::from(home).join(".cache/lockgate/tools/python/bin/python")
    });
    assert!(python.exists(), "{} is missing: run `make tools`", python.display());
    python
}

fn jars() -> PathBuf {
    let named = std::env::var_os("LOCKGATE_KAFKA").map(PathBuf::from);
    let mut parents = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let in_tools =
        || parents.find_map(|p| Some(p.join("target/tools/kafka")).filter(|p| p.is_dir()));
    let folder = named.or_else(in_tools).expect("Kafka is missing: run `make tools`");
    folder.join("libs/*")
}

/// Runs a program to its end on `input`, and returns what it wrote.
fn finish(mut started: Child, input: &[u8]) -> Vec<u8> {
    let mut to = started.stdin.take().unwrap();
    let ended = std::thread::scope(|scope| {
        scope.spawn(move || to.write_all(input));
        started.wait_with_output().unwrap()
    });
    let said = String::from_utf8_lossy(&ended.stderr);
    let last: Vec<&str> = said.lines().rev().take(20).collect();
    assert!(ended.status.success(), "it failed: {last:#?}");
    ended.stdout
}

fn spawn(command: &mut Command, way: &str) -> Child {
    let started =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    started.unwrap_or_else(|error| {
        panic!("{} does not run ({error}): {way}", command.get_program().display())
    })
}

fn in_python(what: &str, brokers: &str, topic: &str) -> Child {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bridge/programs.py");
    spawn(Command::new(python()).args([script, what, brokers, topic]), "run `make tools`")
}

fn kcat(brokers: &str, topic: &str, args: &[&str]) -> Child {
    let mut command = Command::new("kcat");
    command.args(["-q", "-b", brokers, "-t", topic, "-p", "0"]).args(args);
    spawn(&mut command, "apt-get install kcat, or run `make tools`")
}

fn console(tool: &str, brokers: &str, topic: &str, args: &[&str]) -> Child {
    let mut command = Command::new("java");
    command.args(["-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"]).arg(jars());
    command.arg(format!("org.apache.kafka.tools.{tool}"));
    command.args(["--bootstrap-server", brokers, "--topic", topic]).args(args);
    spawn(&mut command, "apt-get install default-jdk-headless")
}

/// Repeated, null and empty headers; a null and an empty key; a null and an empty value. Its clock
/// gives the timestamps.
fn produce_with_kcat(brokers: &str, topic: &str) -> usize {
    let text = "again and again ".repeat(20);
    let lines = (0..EACH).map(|n| format!("k{}{FIELD}{n} {text}\n", n % 7));
    let input = lines.chain([format!("k{FIELD}\n{FIELD}v\nno key\n")]).collect::<String>();
    for codec in CODECS {
        let codec = format!("compression.type={codec}");
        let headers = ["-H", "a=1", "-H", "a=2", "-H", "null", "-H", "empty=", "-H", "a=1"];
        let common = ["-P", "-X", &codec, "-K", FIELD];
        finish(kcat(brokers, topic, &[&common[..], &headers, &["-Z"]].concat()), input.as_bytes());
        finish(kcat(brokers, topic, &common), input.as_bytes());
    }
    CODECS.len() * 2 * (EACH + 3)
}

fn produce_with_console(brokers: &str, topic: &str) -> usize {
    let text = "again and again ".repeat(20);
    let lines = (0..EACH).map(|n| format!("a:1,n:NULL,a:2,e:\tk{}\t{n} {text}\n", n % 7));
    let odd = "NULL\tNULL\tno key\nNULL\t\tempty key\nNULL\tk\tNULL\nNULL\tk\t\n";
    let input = lines.chain([odd.to_owned()]).collect::<String>();
    let read = |property| ["--reader-property", property];
    let args = [
        &read("parse.key=true")[..],
        &read("parse.headers=true"),
        &read("null.marker=NULL"),
        &["--compression-codec", "zstd", "--command-property", "linger.ms=50"],
    ];
    finish(console("ConsoleProducer", brokers, topic, &args.concat()), input.as_bytes());
    EACH + 4
}

/// Timestamp, headers, key and value of a record, as a program shows them.
type Shown = Vec<String>;

/// The records of a program's output; its headers are the second field. Those that a bridge adds at
/// the end are taken off, and the others sorted by name, because a log keeps their order per name.
fn shown(output: &[u8], between: char, colon: char) -> Vec<Shown> {
    let text: String = output.iter().map(|byte| char::from(*byte)).collect();
    let own = |header: &&str| {
        let added = ["lockgate-origin", "lockgate-sequence"];
        !added.contains(&header.split(colon).next().unwrap_or_default())
    };
    let record = |record: &str| {
        let mut fields: Shown = record.split(FIELD).map(str::to_owned).collect();
        let mut headers: Vec<&str> = fields[1].split(between).filter(own).collect();
        headers.sort_by_key(|header| header.split(colon).next());
        // What the console shows where there is none.
        headers.retain(|header| !header.is_empty() && *header != "NO_HEADERS");
        fields[1] = headers.join("\n");
        fields
    };
    text.split(RECORD).filter(|record| !record.is_empty()).map(record).collect()
}

/// What each of the programs reads in a topic.
struct Read {
    kcat: Vec<Shown>,
    console: Vec<Shown>,
    python: Vec<Value>,
}

fn read_with_all(brokers: &str, topic: &str, count: usize) -> Read {
    let format = format!("%T{FIELD}%h{FIELD}%K:%k{FIELD}%S:%s{RECORD}");
    let committed = ["-X", "isolation.level=read_committed", "-u"];
    let to_end = ["-C", "-o", "beginning", "-e", "-f", &format];
    let show = |property: String| [String::from("--formatter-property"), property];
    let on = ["print.key", "print.headers", "print.timestamp"].map(|what| format!("{what}=true"));
    let properties = on.into_iter().chain([
        format!("key.separator={FIELD}"),
        String::from("headers.separator=,"),
        format!("line.separator={RECORD}"),
        String::from("null.literal=NULL"),
    ]);
    let properties: Vec<String> = properties.flat_map(show).collect();
    let count = count.to_string();
    let bounds = ["--partition", "0", "--offset", "earliest", "--max-messages", &count];
    let limits = ["--isolation-level", "read_committed", "--timeout-ms", "60000"];
    let properties: Vec<&str> = properties.iter().map(String::as_str).collect();
    let args = [&bounds[..], &limits, &properties].concat();
    let console = console("consumer.ConsoleConsumer", brokers, topic, &args);
    let kcat = kcat(brokers, topic, &[&to_end[..], &committed].concat());
    let python = finish(in_python("consume", brokers, topic), b"");
    Read {
        python: lines(&python),
        kcat: shown(&finish(kcat, b""), ',', '='),
        console: shown(&finish(console, b""), ',', ':'),
    }
}

fn lines(output: &[u8]) -> Vec<Value> {
    let lines = output.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
}

/// A record without the headers that a bridge adds at its end, and the others as [`shown`] has them.
fn without_added(mut record: Value) -> Value {
    let headers = record["headers"].as_array_mut().unwrap();
    let added = headers.split_off(headers.len() - 3);
    let names: Vec<&Value> = added.iter().map(|header| &header[0]).collect();
    assert_eq!(names, ["lockgate-origin", "lockgate-origin", "lockgate-sequence"]);
    by_name(record)
}

fn by_name(mut record: Value) -> Value {
    let headers = record["headers"].as_array_mut().unwrap();
    headers.sort_by_key(|header| header[0].as_str().unwrap().to_owned());
    record
}

/// The codecs of a partition's batches, as the broker keeps them: `attributes` of the format 2.
fn codecs(broker: &KafkaBroker, topic: &str) -> BTreeSet<u8> {
    let segment = broker.store().join(format!("{topic}-0/00000000000000000000.log"));
    let (bytes, mut at) = (std::fs::read(segment).unwrap(), 0);
    let mut found = BTreeSet::new();
    while at + 61 <= bytes.len() {
        found.insert(bytes[at + 22] & 7);
        let length = u32::from_be_bytes(bytes[at + 8..at + 12].try_into().unwrap());
        at += 12 + length as usize;
    }
    found
}

fn assert_same<T: PartialEq + std::fmt::Debug>(program: &str, sent: &[T], got: &[T]) {
    for (at, (sent, got)) in sent.iter().zip(got).enumerate() {
        assert_eq!(sent, got, "record {at} as {program} reads it");
    }
    assert_eq!(sent.len(), got.len(), "as {program} reads them");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_programs_of_others_wrote_comes_out_as_it_was() {
    let world = World::nats().await;
    let (topic, copy, realm) = (unique("foreign"), unique("copy"), unique("r"));
    for name in [&topic, &copy] {
        make_topic(&world.brokers, name, 1).await;
    }
    let running = world.start(
        &[
            route(&unique("in"), &format!("kafka:{topic}"), &format!("{realm}.all"), ""),
            route(&unique("out"), &format!("{realm}.all"), &format!("kafka:{copy}"), ""),
        ]
        .concat(),
    );
    let brokers = world.brokers.clone();
    let sent = lines(&finish(in_python("produce", &brokers, &topic), b""));
    let by_others = produce_with_kcat(&brokers, &topic) + produce_with_console(&brokers, &topic);
    let count = sent.len() + by_others;
    assert_eq!(codecs(&world._kafka, &topic), (0..5).collect(), "{CODECS:?}");
    assert_eq!(read(&brokers, &copy, count).len(), count);

    let [source, target] = [&topic, &copy].map(|topic| read_with_all(&brokers, topic, count));
    let target_python: Vec<Value> = target.python.into_iter().map(without_added).collect();
    let source_python: Vec<Value> = source.python.into_iter().map(by_name).collect();
    let sent: Vec<Value> = sent.into_iter().map(by_name).collect();
    assert_same("what was sent", &sent, &target_python[..sent.len()]);
    assert_same("confluent-kafka", &source_python, &target_python);
    assert_same("kcat", &source.kcat, &target.kcat);
    assert_same("the console consumer", &source.console, &target.console);
    assert_eq!((source.kcat.len(), source.console.len()), (count, count));
    // Of kcat and the console, too, some had no key, no value, and a header without a value.
    for part in [&source_python[sent.len()..count - EACH - 4], &source_python[count - EACH - 4..]] {
        assert!(part.iter().any(|record| record["key"].is_null()));
        assert!(part.iter().any(|record| record["value"].is_null()));
        assert!(part.iter().any(|record| record["value"] == "" && record["key"] != ""));
        let null = |header: &Value| header[1].is_null();
        assert!(part.iter().any(|record| record["headers"].as_array().unwrap().iter().any(null)));
    }
    running.stop().await;
}
