/** Writes a second over the last five minutes. */

import { drawing } from "./dom.js";

/** Seconds that are kept. */
const SECONDS = 300;

/** Counts revisions, second by second. */
export class WriteRate {
    #counts = [];
    #last = undefined;

    /** Takes the revision of this second. */
    sample(revision) {
        if (this.#last !== undefined) this.#counts.push(Math.max(0, revision - this.#last));
        this.#last = revision;
        if (this.#counts.length > SECONDS) this.#counts.shift();
    }

    get counts() {
        return this.#counts;
    }

    /** The mean of the last three seconds. */
    get now() {
        const last = this.#counts.slice(-3);
        return last.length === 0 ? 0 : last.reduce((sum, count) => sum + count, 0) / last.length;
    }

    get most() {
        return Math.max(0, ...this.#counts);
    }
}

/** A line over the last five minutes, newest at the right. */
export class Plot {
    constructor({ width, height, label }) {
        this.size = { width, height };
        this.line = drawing("polyline", { fill: "none", stroke: "currentColor", "stroke-width": "1.25", "stroke-linejoin": "round", "vector-effect": "non-scaling-stroke" });
        const ground = drawing("line", { class: "ground", x1: "0", x2: String(width), y1: String(height - 0.5), y2: String(height - 0.5), "vector-effect": "non-scaling-stroke" });
        this.element = drawing("svg", { class: "plot", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": label }, ground, this.line);
    }

    render(counts) {
        const { width, height } = this.size;
        const most = Math.max(1, ...counts);
        const first = SECONDS - counts.length;
        const points = counts.map((count, index) => {
            const x = ((first + index) / (SECONDS - 1)) * width;
            const y = height - 1.5 - (count / most) * (height - 3);
            return `${x.toFixed(1)},${y.toFixed(1)}`;
        });
        this.line.setAttribute("points", points.join(" "));
    }
}
