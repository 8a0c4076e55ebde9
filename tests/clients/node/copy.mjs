// A copy of what the service publishes. It applies each message as a merge patch and does nothing else.

import mergePatch from "json-merge-patch";

// Otherwise a client would outlive a test that has crashed.
process.stdin.on("end", () => process.exit()).resume();

const [base, state, events] = process.argv.slice(2);

export const feed = base + events;

export class Copy {
    static async load() {
        const response = await fetch(base + state);
        const copy = new Copy();
        copy.state = await response.json();
        copy.cursor = `${response.headers.get("X-Epoch")}.${response.headers.get("X-Revision")}`;
        copy.print();
        return copy;
    }

    // A message without an id leaves the cursor unchanged.
    apply(data, id) {
        this.state = mergePatch.apply(this.state, JSON.parse(data));
        this.cursor = id || this.cursor;
        this.print();
    }

    print() {
        console.log(JSON.stringify({ cursor: this.cursor, state: this.state }));
    }
}
