// A copy of what the service publishes. Each message is applied as the merge patch that it is, and nothing else is done.

import mergePatch from "json-merge-patch";

// Without this, one whose test has died would stay.
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

    // An id that is not there leaves the cursor where it is.
    apply(data, id) {
        this.state = mergePatch.apply(this.state, JSON.parse(data));
        this.cursor = id || this.cursor;
        this.print();
    }

    print() {
        console.log(JSON.stringify({ cursor: this.cursor, state: this.state }));
    }
}
