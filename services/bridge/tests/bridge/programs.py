"""A program that is not ours, on librdkafka's Python client: writes a topic, or reads it to its end.

Every record is one line of JSON with keys and values in base64, null where they are null. Run as
`programs.py produce|consume BROKERS TOPIC`.
"""

import base64
import json
import sys

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
PATIENCE = 60


def tell(key, value, headers, timestamp):
    def text(data):
        return None if data is None else base64.b64encode(data).decode()

    headers = [[name, text(data)] for name, data in headers]
    line = {"key": text(key), "value": text(value), "headers": headers, "timestamp": timestamp}
    print(json.dumps(line, sort_keys=True))


def records(codec):
    """Keys, values, headers and timestamps, odd ones first and then enough to be worth compressing."""
    name = codec.encode()
    repeated = [("a", b"1"), ("a", b"2"), ("a", b"1")]
    odd = [("a", b""), ("a", None), ("null", None), ("empty", b""), ("bytes", b"\xff\x00\xfe"), ("line", b" x\r\n")]
    reserved = [("Nats-Msg-Id", b"1"), ("Nats-Rollup", b"all"), ("Lg-Key", b"k"), ("kafka-origin", b"x"), ("Case", b"1"), ("case", b"2")]
    names = [("", b"no name"), ("grüß gott: ", "ü".encode()), ("lockgate-sequence", b"7")]
    event = [("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_source", "/é".encode()), ("ce_type", b"t"), ("content-type", b"application/json")]
    structured = [("content-type", b"application/cloudevents+json; charset=UTF-8")]
    yield b"key", name, [], 1_700_000_000_123
    yield None, b"no key", [], 1
    yield b"", b"empty key", [], 1_700_000_000_124
    yield b"deleted", None, [], 1_700_000_000_125
    yield b"empty", b"", [], 1_700_000_000_126
    yield None, None, [], 1_700_000_000_127
    yield b"\x00\xff.*>", bytes(range(256)), [], 1_700_000_000_128
    for headers in [repeated, odd, reserved, names, event]:
        yield b"headers", b"{}", headers, 1_700_000_000_129
    yield b"s", b'{"specversion":"1.0","id":"1","source":"/","type":"t"}', structured, 1_700_000_000_130
    for n in range(200):
        yield b"k%d" % (n % 7), b"%s %d " % (name, n) + b"again and " * 20, repeated, 1_700_000_001_000 + n


def check(error, _):
    if error is not None:
        raise KafkaException(error)


def send(producer, topic, all_records):
    for key, value, headers, timestamp in all_records:
        producer.produce(topic, value, key, partition=0, on_delivery=check, timestamp=timestamp, headers=headers)
    if producer.flush(PATIENCE):
        raise TimeoutError("records are still on their way")


def produce(brokers, topic):
    common = {"bootstrap.servers": brokers, "enable.idempotence": True, "linger.ms": 50}
    for codec in CODECS:
        send(Producer({**common, "compression.type": codec}), topic, records(codec))
        for record in records(codec):
            tell(*record)
    # What is aborted is nowhere.
    transactions = Producer({**common, "transactional.id": f"foreign-{topic}"})
    transactions.init_transactions(PATIENCE)
    transactions.begin_transaction()
    send(transactions, topic, [(b"t", b"aborted", [], 1_700_000_002_000)])
    transactions.abort_transaction(PATIENCE)
    transactions.begin_transaction()
    committed = (b"t", b"committed", [], 1_700_000_002_001)
    send(transactions, topic, [committed])
    transactions.commit_transaction(PATIENCE)
    tell(*committed)


def consume(brokers, topic):
    settings = {"isolation.level": "read_committed", "enable.partition.eof": True, "enable.auto.commit": False}
    consumer = Consumer({"bootstrap.servers": brokers, "group.id": "foreign-python", **settings})
    consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    while True:
        message = consumer.poll(PATIENCE)
        if message is None:
            raise TimeoutError(f"the end of {topic} did not come")
        if message.error() is None:
            tell(message.key(), message.value(), message.headers() or [], message.timestamp()[1])
        elif message.error().code() == KafkaError._PARTITION_EOF:
            consumer.close()
            return
        else:
            raise KafkaException(message.error())


if __name__ == "__main__":
    {"produce": produce, "consume": consume}[sys.argv[1]](*sys.argv[2:])
