"""httpx-sse reads one stream; reconnecting with the last id is up to the program."""

import time

import httpx
from httpx_sse import connect_sse

from copy_of_state import BASE, EVENTS, PAUSE, STATE, Copy

with httpx.Client(base_url=BASE, timeout=httpx.Timeout(5, read=None)) as http:
    response = http.get(STATE)
    copy = Copy(response.json(), response.headers)
    while True:
        try:
            with connect_sse(http, "GET", EVENTS, headers={"Last-Event-ID": copy.cursor}) as source:
                for event in source.iter_sse():
                    copy.apply(event.data, event.id)
        except httpx.TransportError:
            pass
        time.sleep(PAUSE)
