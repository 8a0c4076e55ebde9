// This library also reconnects automatically, unless the stream ends cleanly: then it stops for good, and so does this
// program.

import { fetchEventSource } from "@microsoft/fetch-event-source";
import { Copy, feed } from "./copy.mjs";

// The library is made for browsers.
globalThis.window = globalThis;
globalThis.document = { addEventListener() {}, removeEventListener() {} };

const copy = await Copy.load();
await fetchEventSource(feed, {
    // Lower case, like the header that the library itself sends when it reconnects. With any other case it would send both,
    // combined into one invalid cursor.
    headers: { "last-event-id": copy.cursor },
    onmessage: ({ data, id }) => copy.apply(data, id),
    openWhenHidden: true,
});
console.error("fetch-event-source stopped: the stream ended cleanly");
process.exit(1);
