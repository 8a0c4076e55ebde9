"""A copy of what the service publishes. It applies each message as a merge patch and does nothing else."""

import json
import os
import sys
import threading

import json_merge_patch

BASE, STATE, EVENTS = sys.argv[1:]

# How long to wait before reconnecting, in seconds. It is short to keep the test short.
PAUSE = 0.1


class Copy:
    def __init__(self, state, headers):
        self.state = state
        self.cursor = f"{headers['X-Epoch']}.{headers['X-Revision']}"
        self.print()

    def apply(self, data, event_id):
        """Applies a message; one without an id leaves the cursor unchanged."""
        self.state = json_merge_patch.merge(self.state, json.loads(data))
        self.cursor = event_id or self.cursor
        self.print()

    def print(self):
        print(json.dumps({"cursor": self.cursor, "state": self.state}), flush=True)


def end_with_the_test():
    sys.stdin.read()
    os._exit(0)


# Otherwise a client would outlive a test that has crashed.
threading.Thread(target=end_with_the_test, daemon=True).start()
