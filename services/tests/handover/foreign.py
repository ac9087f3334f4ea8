"""Publishes with nats-py, as an application would that has never heard of Lockgate."""

import asyncio
import sys

import nats


async def main(url: str) -> None:
    client = await nats.connect(url)
    log = client.jetstream()
    plain = await log.publish("events.dir.user.zoe", b'{"mail":"zoe@example.org"}')
    headers = {
        "ce-specversion": "1.0",
        "ce-id": "from-python",
        "ce-source": "/hr",
        "ce-type": "org.example.joined",
        "content-type": "application/json",
        "Nats-Msg-Id": "from-python",
    }
    event = await log.publish("events.dir.user.yann", b'{"team":"a"}', headers=headers)
    again = await log.publish("events.dir.user.yann", b'{"team":"a"}', headers=headers)
    text = await log.publish("events.dir.note.n1", "grüß Gott".encode())
    assert again.duplicate, "the id was not recognised"
    try:
        await log.publish("events.nowhere.user.zoe", b"x")
        raise SystemExit("a publish to an unknown realm was accepted")
    except nats.js.errors.NoStreamResponseError:
        pass
    print(plain.seq, event.seq, text.seq)
    await client.drain()


asyncio.run(main(sys.argv[1]))
