/** Elements. Text is only ever set as text, so that data which looks like HTML stays what it is. */

/** Creates an element. Functions are listeners; what is `undefined` or `false`, and a child that is `null`, is left out. */
export function element(name, attributes = {}, ...children) {
    return furnish(document.createElement(name), attributes, children);
}

export function drawing(name, attributes = {}, ...children) {
    return furnish(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function furnish(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
        if (typeof value === "function") node.addEventListener(name.slice(2), value);
        else if (value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
    return node;
}

/** An unchanged text costs no layout. */
export function setText(node, text) {
    if (node.textContent !== text) node.textContent = text;
}

export function button(label, action, attributes = {}) {
    return element("button", { type: "button", onclick: action, ...attributes }, label);
}

export function copyButton(label, read) {
    const node = button(label, async () => {
        const isCopied = await copyText(read());
        announce(isCopied ? "Copied" : "The browser does not allow it");
        node.textContent = document.getElementById("announcements").textContent;
        setTimeout(() => setText(node, label), 1200);
    });
    return node;
}

export function copyJson(read) {
    return copyButton("Copy JSON", () => JSON.stringify(read(), null, 2));
}

/** Without HTTPS, browsers offer only the older way. */
async function copyText(text) {
    try {
        await navigator.clipboard.writeText(text);
        return true;
    } catch {
        const area = element("textarea", { class: "unseen" });
        area.value = text;
        document.body.append(area);
        area.select();
        const isCopied = document.execCommand("copy");
        area.remove();
        return isCopied;
    }
}

export function announce(text) {
    setText(document.getElementById("announcements"), text);
}

let lastId = 0;

export function uniqueId() {
    lastId += 1;
    return `e${lastId}`;
}

/** What is wider or longer than its place; it can be scrolled by keyboard. */
export function scrollable(content, label) {
    return element("div", { class: "scroller", role: "region", "aria-label": `${label}, scrollable`, tabindex: "0" }, content);
}

export function labelled(text, field) {
    field.id ||= uniqueId();
    return [element("label", { for: field.id }, text), field];
}

export function section(title, { remark, actions = [], className } = {}, ...children) {
    const id = uniqueId();
    const heading = [element("h2", { id }, title), remark && element("code", {}, `GET ${remark}`), element("span", { class: "actions" }, actions)];
    return element("section", { class: className, "aria-labelledby": id }, element("div", { class: "heading" }, heading), children);
}

/** A list of names and values that change. */
export class Definitions {
    element = element("dl");
    #values = new Map();

    set(name, text) {
        if (!this.#values.has(name)) {
            this.#values.set(name, element("dd", { class: "mono" }));
            this.element.append(element("div", {}, element("dt", {}, name), this.#values.get(name)));
        }
        setText(this.#values.get(name), text);
    }
}
