import { element } from "./dom.js";
export class AggregateView { title = "aggregate"; element = element("p", {class: "empty"}, "soon"); }
