"""Writes and follows over TLS with a token, by httpx: python httpx_client.py URL AUTHORITY. The token is in DUALITY_TOKEN."""

import os
import ssl
import sys

import httpx

url, authority = sys.argv[1:]
token = os.environ["DUALITY_TOKEN"]
context = ssl.create_default_context(cafile=authority)
with httpx.Client(base_url=url, verify=context, headers={"Authorization": f"Bearer {token}"}, timeout=20) as client:
    with client.stream("GET", "/person-events", headers={"Accept": "text/event-stream"}) as stream:
        stream.raise_for_status()
        created = client.post("/persons", json={"name": "httpx"}).raise_for_status()
        text = ""
        for part in stream.iter_text():
            text += part
            if f".{created.headers['X-Revision']}\n" in text and '"httpx"' in text:
                break
print("httpx")
