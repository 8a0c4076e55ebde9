/** Time travel: the steps of an aggregate, its state after each of them, and the merge patch between any two. */

import { button, copyButton, element, section, setText, uniqueId } from "./dom.js";
import { coloured, jsonBlock } from "./json_text.js";
import { difference } from "./patch.js";
import { count, grouped } from "./words.js";

/** Steps in the list; the sliders reach all of them. */
const MOST_SHOWN = 60;

/**
 * One step: an event of the journal, or a change.
 * @typedef {{ number: number, title: string, text: string, time?: string }} Step
 */

export class Timeline {
    /** @type {Step[]} */
    #steps = [];
    #isAtEnd = true;
    #turn = 0;

    /**
     * @param {{ unit: string, remark: string, stateAt: (step: number) => Promise<string>, shown: () => void }} options `stateAt` gives the
     * state after the step with this index as JSON text.
     */
    constructor(options) {
        this.options = options;
        this.from = this.#slider(`From ${options.unit}`);
        this.to = this.#slider(`To ${options.unit}`);
        this.before = element("div");
        this.after = element("div");
        this.patch = element("div");
        this.list = element("ol", { class: "messages steps", tabindex: "0", "aria-label": "Steps" });
        this.travel = element("div", { class: "travel" }, this.from.element, this.to.element, this.before, this.after, this.patch);
        this.none = element("p", { class: "empty" }, "Loading …");
        this.element = section("Over time", { remark: options.remark, actions: [copyButton("Copy JSON", () => this.#json())] }, this.none, this.travel, this.list);
        this.setSteps([]);
    }

    /** The index of the step that is looked at. */
    get at() {
        return Number(this.to.input.value) - 1;
    }

    #slider(name) {
        const id = uniqueId();
        const output = element("output", { class: "mono", for: id });
        const input = element("input", { type: "range", id, min: "1", max: "1", value: "1", oninput: () => this.#moved() });
        return { input, output, element: element("div", { class: "slider" }, element("label", { for: id }, name), output, input) };
    }

    /** Takes all steps, oldest first; whoever looks at the last one goes along. */
    setSteps(steps, nothing = "") {
        this.#steps = steps;
        this.none.hidden = steps.length > 0;
        this.travel.hidden = steps.length === 0;
        if (steps.length === 0 && nothing !== "") setText(this.none, nothing);
        for (const { input } of [this.from, this.to]) input.max = String(Math.max(1, steps.length));
        if (steps.length === 0) return;
        if (this.#isAtEnd) this.#go(steps.length - 1);
        else this.#show();
    }

    /** Looks at a step, and compares it with the one before. */
    #go(index) {
        this.to.input.value = String(index + 1);
        this.from.input.value = String(Math.max(1, index));
        this.#moved();
    }

    #moved() {
        this.#isAtEnd = this.at === this.#steps.length - 1;
        this.#show();
    }

    async #show() {
        const [from, to] = [Number(this.from.input.value) - 1, this.at];
        if (this.#steps[to] === undefined) return;
        for (const [slider, index] of [[this.from, from], [this.to, to]]) {
            const text = this.#name(index);
            setText(slider.output, text);
            slider.input.setAttribute("aria-valuetext", text);
        }
        this.#showList(to);
        this.options.shown();
        this.#turn += 1;
        const turn = this.#turn;
        const [before, after] = await Promise.all([from, to].map((index) => this.options.stateAt(index).catch((error) => JSON.stringify(error.message))));
        if (turn !== this.#turn) return;
        const patch = difference(JSON.parse(before), JSON.parse(after));
        this.before.replaceChildren(element("h3", {}, this.#name(from)), jsonBlock(before, `State at ${this.#name(from)}`));
        this.after.replaceChildren(element("h3", {}, this.#name(to)), jsonBlock(after, `State at ${this.#name(to)}`));
        this.patch.replaceChildren(element("h3", {}, "The merge patch between them"), jsonBlock(patch === undefined ? "{}" : JSON.stringify(patch), "Merge patch"));
    }

    #name(index) {
        return `${this.options.unit} ${grouped(this.#steps[index].number)}`;
    }

    #showList(current) {
        const last = Math.min(this.#steps.length, Math.max(current + MOST_SHOWN / 2, MOST_SHOWN));
        const first = Math.max(0, last - MOST_SHOWN);
        const rows = [];
        for (let index = last - 1; index >= first; index -= 1) {
            const { number, title, text, time } = this.#steps[index];
            const label = button(grouped(number), () => this.#go(index), { class: "label link", "aria-label": `Look at ${this.#name(index)}`, "aria-current": index === current ? "step" : undefined });
            rows.push(element("li", {}, label, element("div", {}, element("p", {}, title, time === undefined ? null : element("time", { datetime: time, title: time }, time.slice(0, 19).replace("T", " "))),
                text === "{}" ? null : element("pre", {}, coloured(text, { limit: 600 })))));
        }
        const left = this.#steps.length - rows.length;
        if (left > 0) rows.push(element("li", { class: "note" }, element("p", {}, `${count(left, "step")} more: move the sliders.`)));
        const focused = this.list.contains(document.activeElement);
        this.list.replaceChildren(...rows);
        if (focused) this.list.querySelector("[aria-current]")?.focus();
    }

    #json() {
        return JSON.stringify(this.#steps, null, 2);
    }
}
