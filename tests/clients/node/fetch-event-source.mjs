// It reconnects by itself too, unless the stream ends cleanly: then it stops for good, and this program with it.

import { fetchEventSource } from "@microsoft/fetch-event-source";
import { Copy, feed } from "./copy.mjs";

// It is made for browsers.
globalThis.window = globalThis;
globalThis.document = { addEventListener() {}, removeEventListener() {} };

const copy = await Copy.load();
await fetchEventSource(feed, {
    // In small letters, as it does itself when it comes back: else it would send both, as one that is no cursor.
    headers: { "last-event-id": copy.cursor },
    onmessage: ({ data, id }) => copy.apply(data, id),
    openWhenHidden: true,
});
console.error("fetch-event-source stopped: the stream ended cleanly");
process.exit(1);
