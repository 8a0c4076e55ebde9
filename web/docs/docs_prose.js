/** Texts of the description, in which backquotes stand around code. */

import { element } from "/page/dom.js";

/** The parts of a text, with its code as such. */
export function prose(text) {
    return text.split("`").map((part, index) => (index % 2 === 1 ? element("code", {}, part) : part));
}
