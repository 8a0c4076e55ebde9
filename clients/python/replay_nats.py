#!/usr/bin/env python3
"""Prints the document from the stream alone, without HTTP: replay_nats.py nats://localhost:4222

Needs nats-py. docs/messaging.md explains it.
"""

import asyncio
import json
import sys
from urllib.parse import unquote

import nats
from nats.js.api import ConsumerConfig, DeliverPolicy

from consumer import merge


async def replay(stream):
    """The document, when all messages of the stream have been applied."""
    document, is_exact, pending = None, False, 1
    config = ConsumerConfig(deliver_policy=DeliverPolicy.ALL)
    messages = await stream.subscribe("duality.*.*", stream="duality", ordered_consumer=True, config=config)
    while pending or not is_exact:
        message = await messages.next_msg(timeout=5)
        headers, sequence, pending = message.headers, message.metadata.sequence.stream, message.metadata.num_pending
        if headers.get("Catch-Up") == str(sequence):
            document = {}
        if document is None:
            raise ValueError("the stream has dropped the begin of its last catch-up: load over HTTP")
        _, collection, token = message.subject.split(".")
        patch = json.loads(message.data)
        document = merge(document, {collection: patch if token == "_" else {unquote(token): patch}})
        part, parts = headers["Part"].split("/")
        is_exact = part == parts and headers["Duality-Id"].count(".") == 1
    return document


async def main(broker):
    async with await nats.connect(broker) as connection:
        print(json.dumps(await replay(connection.jetstream())))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
