/** The token of this tab: pasted once, and kept until the tab is closed or forgets it. It is never in an address. */

import { button, element, labelled, section } from "./dom.js";

const NAME = "duality token";

let onRefusal = () => {};

/** Calls back with a form when the service wants a token, or another one. */
export function whenRefused(show) {
    onRefusal = show;
}

/** Empty if there is none, as where the browser keeps nothing. */
export function token() {
    try {
        return sessionStorage.getItem(NAME) ?? "";
    } catch {
        return "";
    }
}

/** What was read with one token is gone with the next one. */
function change(text) {
    sessionStorage.setItem(NAME, text);
    location.reload();
}

export function forgetButton(attributes) {
    return token() && button("Forget the token", () => change(""), attributes);
}

/** `fetch` with the token. */
export async function fetchWithToken(url, options) {
    const headers = { ...options.headers, ...(token() && { Authorization: `Bearer ${token()}` }) };
    const response = await fetch(url, { ...options, headers });
    if (response.status === 401) onRefusal(tokenForm(await response.clone().json().catch(() => ({}))));
    return response;
}

/** Asks for a token; with what the service said, if it got one. */
export function tokenForm({ detail }) {
    const input = element("input", { type: "password", autocomplete: "off" });
    const problem = element("p", { class: "problem", role: "alert" }, token() && detail);
    const use = (event) => {
        event.preventDefault();
        // Nothing else can stand in a header.
        const text = /^[!-~]+$/.exec(input.value.trim())?.[0];
        try {
            if (text) return change(text);
            problem.textContent = "A token is one word, as it was printed.";
        } catch {
            problem.textContent = "The browser keeps nothing for this page.";
        }
    };
    return section("This service asks for a token", { className: "token" },
        element("p", { class: "soft" }, "It is kept for this tab only. To make one: ", element("code", {}, "duality token new NAME --scope read")),
        element("form", { onsubmit: use }, labelled("Token", input), element("p", { class: "row" }, element("button", { class: "main" }, "Use it"), forgetButton())), problem);
}
