// The EventSource of browsers, for Node: it reconnects automatically with the last id it received.

import { EventSource } from "eventsource";
import { Copy, feed } from "./copy.mjs";

const copy = await Copy.load();
new EventSource(`${feed}?lastEventId=${copy.cursor}`)
    .addEventListener("message", ({ data, lastEventId }) => copy.apply(data, lastEventId));
