#!/usr/bin/env python3
"""Prints which aggregates there are, from the last message about each: keys_nats.py nats://localhost:4222

Needs nats-py. docs/messaging.md explains it.
"""

import asyncio
import sys
from urllib.parse import unquote

import nats
from nats.js.api import ConsumerConfig, DeliverPolicy


async def keys(stream):
    """The collection and the key of each aggregate, by the last message of each subject."""
    found, pending = [], 1
    config = ConsumerConfig(deliver_policy=DeliverPolicy.LAST_PER_SUBJECT)
    messages = await stream.subscribe("duality.*.*", stream="duality", ordered_consumer=True, config=config)
    while pending:
        message = await messages.next_msg(timeout=5)
        pending = message.metadata.num_pending
        _, collection, token = message.subject.split(".")
        if token != "_" and message.data != b"null":
            found.append((collection, unquote(token)))
    return found


async def main(broker):
    async with await nats.connect(broker) as connection:
        for collection, key in await keys(connection.jetstream()):
            print(f"{collection}/{key}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
