/** Which view is shown: the part of the address after `#`. */

import { segment } from "./api.js";

const VIEWS = ["feed", "journal", "projections", "reports", "service", "collection"];

export const links = {
    collection: ({ name }) => (VIEWS.includes(name) ? `#/collection/${segment(name)}` : `#/${segment(name)}`),
    aggregate: (collection, key) => `${links.collection(collection)}/${segment(key)}`,
    feed: (collection) => (collection === undefined ? "#/feed" : `#/feed/${segment(collection.events.replace(/^\//, ""))}`),
    aggregateFeed: (collection, key) => `#/feed/${segment(collection.name)}/${segment(key)}`,
    report: (name) => `#/reports/${segment(name)}`,
    journal: "#/journal",
    projections: "#/projections",
};

export function route(hash) {
    const parts = hash.replace(/^#\/?/, "").split("/").filter((part) => part !== "").map(decoded);
    const isCollection = parts[0] === "collection";
    if (isCollection) parts.shift();
    if (parts.length === 0) return { view: "first" };
    if (!isCollection && VIEWS.includes(parts[0])) return { view: parts[0], name: parts[1], key: parts[2] };
    return parts.length > 1 ? { view: "aggregate", name: parts[0], key: parts[1] } : { view: "duality", name: parts[0] };
}

function decoded(part) {
    try {
        return decodeURIComponent(part);
    } catch {
        return part;
    }
}
