/** Writes a second over the last five minutes. */

import { drawing } from "./dom.js";

const SECONDS = 300;

export class WriteRate {
    counts = [];
    #last = undefined;

    sample(revision) {
        if (this.#last !== undefined) this.counts.push(Math.max(0, revision - this.#last));
        this.#last = revision;
        if (this.counts.length > SECONDS) this.counts.shift();
    }

    get now() {
        const last = this.counts.slice(-3);
        return last.reduce((sum, count) => sum + count, 0) / Math.max(1, last.length);
    }

    get most() {
        return Math.max(0, ...this.counts);
    }
}

export class Plot {
    constructor({ width, height, label }) {
        Object.assign(this, { width, height });
        const common = { fill: "none", stroke: "currentColor", "vector-effect": "non-scaling-stroke" };
        this.line = drawing("polyline", common);
        const ground = drawing("path", { ...common, class: "ground", d: `M0 ${height - 0.5}H${width}` });
        this.element = drawing("svg", { class: "plot", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": label }, ground, this.line);
    }

    render(counts) {
        const { width, height } = this;
        const most = Math.max(1, ...counts);
        const points = counts.map((count, index) => {
            const x = ((SECONDS - counts.length + index) / (SECONDS - 1)) * width;
            return `${x.toFixed(1)},${(height - 1.5 - (count / most) * (height - 3)).toFixed(1)}`;
        }).join(" ");
        if (points !== this.points) this.line.setAttribute("points", points);
        this.points = points;
    }
}
