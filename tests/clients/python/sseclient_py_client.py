"""sseclient-py, on requests, reads one stream; reconnecting with the last id is up to the program."""

import time

import requests
from sseclient import SSEClient

from copy_of_state import BASE, EVENTS, PAUSE, STATE, Copy

with requests.Session() as http:
    response = http.get(BASE + STATE)
    copy = Copy(response.json(), response.headers)
    while True:
        try:
            headers = {"Accept": "text/event-stream", "Last-Event-ID": copy.cursor}
            with http.get(BASE + EVENTS, headers=headers, stream=True, timeout=(5, None)) as stream:
                for event in SSEClient(stream).events():
                    copy.apply(event.data, event.id)
        except requests.RequestException:
            pass
        time.sleep(PAUSE)
