// The EventSource of browsers, in Node: it reconnects by itself, with the last id that it saw.

import { EventSource } from "eventsource";
import { Copy, feed } from "./copy.mjs";

const copy = await Copy.load();
new EventSource(`${feed}?lastEventId=${copy.cursor}`)
    .addEventListener("message", ({ data, lastEventId }) => copy.apply(data, lastEventId));
