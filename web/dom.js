/**
 * Elements. Text is only ever set as text, so that data which looks like HTML stays what it is.
 */

const SVG = "http://www.w3.org/2000/svg";

/**
 * Creates an element.
 * @param {string} name
 * @param {Record<string, any>} [attributes] Functions are listeners; `undefined` and `false` are left out.
 * @param {...any} children Nodes and texts; lists of them are flattened, `null` and `undefined` are left out.
 * @returns {any}
 */
export function element(name, attributes = {}, ...children) {
    return furnish(document.createElement(name), attributes, children);
}

/** Creates an element of an SVG picture. */
export function drawing(name, attributes = {}, ...children) {
    return furnish(document.createElementNS(SVG, name), attributes, children);
}

function furnish(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
        if (typeof value === "function") node.addEventListener(name.replace(/^on/, ""), value);
        else if (value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
    return node;
}

/** Sets the text of a node if it is another one: unchanged nodes cost no layout. */
export function setText(node, text) {
    if (node.textContent !== text) node.textContent = text;
}

/** A button that does something at once. */
export function button(label, action, attributes = {}) {
    return element("button", { type: "button", onclick: action, ...attributes }, label);
}

/**
 * A button that asks once more before it does something that cannot be undone.
 * @param {string} label
 * @param {string} question The label of the button while it waits for the second click.
 */
export function carefulButton(label, question, action, attributes = {}) {
    let timer = 0;
    const calm = () => {
        clearTimeout(timer);
        timer = 0;
        node.textContent = label;
        node.classList.remove("danger");
    };
    const node = button(label, () => {
        if (timer !== 0) {
            calm();
            action();
            return;
        }
        node.textContent = question;
        node.classList.add("danger");
        timer = setTimeout(calm, 4000);
    }, { onblur: () => timer !== 0 && calm(), ...attributes });
    return node;
}

/** A button that copies a text to the clipboard. */
export function copyButton(label, read) {
    const node = button(label, async () => {
        const isCopied = await copyText(await read());
        node.textContent = isCopied ? "Copied" : "The browser does not allow it";
        announce(node.textContent);
        setTimeout(() => setText(node, label), 1200);
    });
    return node;
}

/** Without HTTPS, browsers offer only the older way. */
async function copyText(text) {
    try {
        await navigator.clipboard.writeText(text);
        return true;
    } catch {
        const area = element("textarea", { class: "unseen", "aria-hidden": "true" });
        area.value = text;
        document.body.append(area);
        area.select();
        const isCopied = document.execCommand("copy");
        area.remove();
        return isCopied;
    }
}

/** Says something to people who do not see the page. */
export function announce(text) {
    setText(document.getElementById("announcements"), text);
}

let lastId = 0;

/** An id for an element that a label or a description refers to. */
export function uniqueId() {
    lastId += 1;
    return `e${lastId}`;
}

/** A section with its heading, a path or a remark beside it, and its buttons. */
export function section(title, { remark = "", actions = [], className = "" } = {}, ...children) {
    const id = uniqueId();
    const aside = remark === "" ? null : element("code", {}, remark);
    const heading = element("div", { class: "heading" }, element("h2", { id }, title), aside, element("span", { class: "actions" }, actions));
    return element("section", { class: className || undefined, "aria-labelledby": id }, heading, children);
}
