#!/usr/bin/env python3
"""Prints a state whenever it changes: consumer.py http://localhost:3000/persons [--store FILE]

Needs Python 3.11 and nothing else. It follows everything (/aggregates), a collection, or one aggregate. A service with
tokens gets the one in DUALITY_TOKEN: what is on a command line can be seen by others.
"""

import argparse
import http.client
import json
import os
import random
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

# Seconds without a byte after which a connection is dead: three heartbeats of the service.
SILENCE = 45

TOKEN = os.environ.get("DUALITY_TOKEN")
AUTHORIZATION = {"Authorization": f"Bearer {TOKEN}"} if TOKEN else {}


def merge(target, patch):
    """The target after a merge patch (RFC 7396)."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


def messages(url, last_id):
    """The patches of one stream, each with the id that it sets, or None. Ends when the connection does."""
    headers = {"Accept": "text/event-stream", "Last-Event-ID": last_id} | AUTHORIZATION
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=SILENCE) as stream:
        data, new_id = "", None
        for line in stream:
            field, _, value = line.decode().rstrip("\r\n").partition(": ")
            if field == "data":
                data = value
            elif field == "id":
                new_id = value
            elif field == "" and data:
                yield json.loads(data), new_id
                data, new_id = "", None


def load(url):
    """The state, and its id."""
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=AUTHORIZATION), timeout=SILENCE)
    except urllib.error.HTTPError as error:
        # What does not exist has a revision too, unless the path does not exist either.
        if error.code != 404 or "X-Revision" not in error.headers:
            raise
        response, state = error, None
    else:
        state = json.load(response)
    return state, f"{response.headers['X-Epoch']}.{response.headers['X-Revision']}"


def feed_of(url):
    """/aggregates → /events, /persons → /events/persons, /persons/2 → /persons/2/events"""
    parts = urllib.parse.urlsplit(url)
    if parts.path == "/aggregates":
        path = "/events"
    elif parts.path.count("/") == 1:
        path = "/events" + parts.path
    else:
        path = parts.path + "/events"
    return parts._replace(path=path).geturl()


def read(store, url):
    """The stored state, its id, and whether it is exact, if there is one of this URL."""
    try:
        with open(store, encoding="utf-8") as file:
            stored = json.load(file)
        if stored["url"] == url:
            return stored["state"], stored["id"], stored["exact"]
    except (FileNotFoundError, ValueError, KeyError):
        pass
    return None, None, False


def save(store, url, state, last_id, exact):
    """Stores a state together with its id, and whether it is exact. The new file takes the place of the old one at once."""
    with open(store + ".new", "w", encoding="utf-8") as file:
        json.dump({"url": url, "id": last_id, "exact": exact, "state": state}, file)
    os.replace(store + ".new", store)


def follow(url, store):
    """Yields each state, its id, and whether it is exact. Never ends."""
    state, last_id, exact = read(store, url) if store else (None, None, False)
    while True:
        try:
            if last_id is None:
                state, last_id = load(url)
                exact = True
            yield state, last_id, exact
            for patch, new_id in messages(feed_of(url), last_id):
                # Without an id, it is in the middle of a catch-up, unless it is the empty state with which a stream begins.
                exact = ".partial" not in new_id if new_id else exact and state == patch == {}
                state, last_id = merge(state, patch), new_id or last_id
                if store:
                    save(store, url, state, last_id, exact)
                yield state, last_id, exact
        except (OSError, http.client.HTTPException, ValueError) as error:
            print(error, file=sys.stderr, flush=True)
            # Without a valid token, there is nothing to wait for.
            if getattr(error, "code", None) == 401:
                sys.exit(1)
        # With a spread, so that not everybody comes back at the same time.
        time.sleep(random.uniform(1, 2))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--store")
    arguments = parser.parse_args()
    for state, last_id, exact in follow(arguments.url, arguments.store):
        print(json.dumps({"id": last_id, "exact": exact, "state": state}), flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
