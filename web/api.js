/** Requests to the service, and its answers. */

import { fetchWithToken } from "./token.js";

/** Sends a request. What the service refuses is an answer too, with its problem document. A `PUT` only creates. */
export async function request(path, { method = "GET", body, accept = "application/json", contentType = "application/json" } = {}) {
    const headers = { Accept: accept, ...(body !== undefined && { "Content-Type": contentType }), ...(method === "PUT" && { "If-None-Match": "*" }) };
    try {
        const response = await fetchWithToken(path, { method, body, headers, cache: "no-store" });
        const text = await response.text();
        const { ok, status } = response;
        return { ok, status, text, headers: response.headers, problem: ok ? undefined : problemOf(response, text) };
    } catch {
        const problem = { title: "No connection", detail: "the service does not answer; nothing is known about the outcome" };
        return { ok: false, status: 0, text: "", headers: new Headers(), problem };
    }
}

export async function read(path) {
    const { ok, status, text, problem } = await request(path);
    if (!ok) throw Object.assign(new Error(problem.detail), { status });
    return JSON.parse(text);
}

/** The problem document (RFC 9457), or one for an answer by something in between, such as a proxy. */
function problemOf({ status, statusText }, text) {
    try {
        const problem = JSON.parse(text);
        if (typeof problem.detail === "string") return problem;
    } catch {
        // Not from the service.
    }
    return { title: `Status ${status}`, detail: `the answer was ${status} ${statusText}` };
}

export function segment(key) {
    return encodeURIComponent(key).replace(/[!'()*]/g, (sign) => `%${sign.charCodeAt(0).toString(16)}`);
}
