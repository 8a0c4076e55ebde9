#!/usr/bin/env python3
"""Prints the document whenever its copy is exact: follow_nats.py nats://localhost:4222 http://localhost:3000/aggregates

Needs Python 3.11 and nats-py. docs/messaging.md explains it.
"""

import asyncio
import json
import sys
from urllib.parse import unquote

import nats
from nats.js.api import ConsumerConfig, DeliverPolicy

from consumer import load, merge


async def follow(stream, url):
    """Loads the document, and follows it. Yields each exact state; ends, or fails, when it has to be loaded again."""
    new = ConsumerConfig(deliver_policy=DeliverPolicy.NEW)
    messages = await stream.subscribe("duality.*.*", stream="duality", ordered_consumer=True, config=new)
    consumer = await messages.consumer_info()
    last = consumer.delivered.stream_seq - consumer.delivered.consumer_seq
    document, loaded = load(url)
    epoch, start = loaded.split(".")
    yield document
    while True:
        try:
            message = await messages.next_msg(timeout=5)
        except nats.errors.TimeoutError:
            await stream.consumer_info("duality", consumer.name)
            continue
        headers, sequence = message.headers, message.metadata.sequence.stream
        life, revision, *partial = headers["Duality-Id"].split(".")
        if headers.get("Catch-Up") == str(sequence):
            document, start, last = {}, -1, sequence - 1
        is_new = int(revision) > int(start)
        if message.metadata.consumer != consumer.name or sequence != last + 1 or not (is_new or life == epoch):
            return
        last = sequence
        if is_new:
            _, collection, token = message.subject.split(".")
            patch = json.loads(message.data)
            document = merge(document, {collection: patch if token == "_" else {unquote(token): patch}})
        part, parts = headers["Part"].split("/")
        if part == parts and not partial:
            yield document


async def main(broker, url):
    while True:
        try:
            async with await nats.connect(broker, allow_reconnect=False) as connection:
                async for document in follow(connection.jetstream(), url):
                    print(json.dumps(document), flush=True)
        except Exception as error:
            print(repr(error), file=sys.stderr, flush=True)
        await asyncio.sleep(1)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
