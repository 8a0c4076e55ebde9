import { element } from "./dom.js";
export class ProjectionsView { title = "projections"; element = element("p", {class: "empty"}, "soon"); }
