import { element } from "./dom.js";
export class JournalView { title = "journal"; element = element("p", {class: "empty"}, "soon"); }
