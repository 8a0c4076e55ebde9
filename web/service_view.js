import { element } from "./dom.js";
export class ServiceView { title = "service"; element = element("p", {class: "empty"}, "soon"); }
