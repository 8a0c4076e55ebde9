"""A copy of what the service publishes. Each message is applied as the merge patch that it is, and nothing else is done."""

import json
import os
import sys
import threading

import json_merge_patch

BASE, STATE, EVENTS = sys.argv[1:]

# How long to wait before coming back, in seconds: short, so that the test is.
PAUSE = 0.1


class Copy:
    def __init__(self, state, headers):
        self.state = state
        self.cursor = f"{headers['X-Epoch']}.{headers['X-Revision']}"
        self.print()

    def apply(self, data, event_id):
        """An id that is not there leaves the cursor where it is."""
        self.state = json_merge_patch.merge(self.state, json.loads(data))
        self.cursor = event_id or self.cursor
        self.print()

    def print(self):
        print(json.dumps({"cursor": self.cursor, "state": self.state}), flush=True)


def end_with_the_test():
    sys.stdin.read()
    os._exit(0)


# Without this, one whose test has died would stay.
threading.Thread(target=end_with_the_test, daemon=True).start()
