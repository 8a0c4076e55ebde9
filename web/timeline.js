/** The steps of an aggregate, the state after each, and the merge patch between any two. */

import { button, copyJson, element, labelled, section, setText } from "./dom.js";
import { coloured, jsonBlock } from "./json_text.js";
import { difference } from "./patch.js";
import { snippets } from "./snippets.js";
import { grouped, moment } from "./words.js";

/** Steps in the list; the sliders reach all of them. */
const MOST_SHOWN = 60;

export class Timeline {
    #steps = [];
    #isAtEnd = true;
    #turn = 0;

    constructor(history) {
        this.history = history;
        this.from = this.#slider("From");
        this.to = this.#slider("To");
        [this.before, this.after, this.patch] = [1, 2, 3].map(() => element("div"));
        this.list = element("ol", { class: "messages steps", tabindex: "0", "aria-label": "Steps" });
        this.travel = element("div", { class: "travel", hidden: true }, this.from.element, this.to.element, this.before, this.after, this.patch);
        this.none = element("p", { class: "empty" }, "Loading …");
        this.byHand = snippets(() => ({ path: history.statePath(this.to.index) }), "Travel by hand");
        this.element = section("Over time", { remark: history.remark, actions: copyJson(() => this.#steps) }, this.none, this.travel, this.list, this.byHand.element);
    }

    #slider(name) {
        const output = element("output", { class: "mono" });
        const input = element("input", { type: "range", min: "1", value: "1", oninput: () => this.#show() });
        return { input, output, element: element("div", { class: "slider" }, labelled(`${name} ${this.history.unit}`, input), output), get index() { return Number(input.value) - 1; } };
    }

    update(nothing) {
        const steps = [...this.history.steps];
        this.#steps = steps;
        this.none.hidden = steps.length > 0;
        this.travel.hidden = steps.length === 0;
        setText(this.none, nothing);
        if (steps.length === 0) return;
        for (const { input } of [this.from, this.to]) input.max = steps.length;
        if (this.#isAtEnd) this.#go(steps.length - 1);
        else this.#show();
    }

    /** Looks at a step, and compares it with the one before. */
    #go(index) {
        this.to.input.value = index + 1;
        this.from.input.value = Math.max(1, index);
        this.#show();
    }

    async #show() {
        const { from, to } = this;
        this.#isAtEnd = to.index === this.#steps.length - 1;
        for (const { index, output, input } of [from, to]) {
            setText(output, this.#name(index));
            input.setAttribute("aria-valuetext", this.#name(index));
        }
        this.#showList(to.index);
        this.byHand.refresh();
        this.#turn += 1;
        const turn = this.#turn;
        const states = await Promise.all([from, to].map(({ index }) => this.history.stateAt(index).catch((error) => JSON.stringify(error.message))));
        if (turn !== this.#turn) return;
        const patch = difference(...states.map((state) => JSON.parse(state))) ?? {};
        this.#fill(this.before, this.#name(from.index) + (from.index === to.index ? " as well" : ""), states[0]);
        this.#fill(this.after, this.#name(to.index), states[1]);
        this.#fill(this.patch, "The merge patch between them", JSON.stringify(patch));
    }

    #fill(place, title, text) {
        place.replaceChildren(element("h3", {}, title), jsonBlock(text, title));
    }

    #name(index) {
        return `${this.history.unit} ${grouped(this.#steps[index].number)}`;
    }

    #showList(current) {
        const last = Math.min(this.#steps.length, Math.max(current + MOST_SHOWN / 2, MOST_SHOWN));
        const first = Math.max(0, last - MOST_SHOWN);
        const rows = this.#steps.slice(first, last).map(({ number, title, text, time }, offset) => {
            const index = first + offset;
            const label = button(grouped(number), () => this.#go(index), { class: "label link", "aria-label": `Look at ${this.#name(index)}`, "aria-current": index === current && "step" });
            return element("li", {}, label, element("div", {}, element("p", {}, title, time && moment(time)), text === "{}" ? null : element("pre", {}, coloured(text, 600))));
        }).reverse();
        const isFocused = this.list.contains(document.activeElement);
        this.list.replaceChildren(...rows);
        if (isFocused) this.list.querySelector("[aria-current]")?.focus();
    }
}
