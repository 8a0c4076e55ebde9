import { element } from "./dom.js";
export class ReportView { title = "report"; element = element("p", {class: "empty"}, "soon"); }
