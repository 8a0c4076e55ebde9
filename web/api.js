/** Requests to the service, and its answers. */

/**
 * An answer of the service.
 * @typedef {{ ok: boolean, status: number, text: string, headers: Headers, problem?: any }} Answer
 */

/**
 * Sends a request. What the service refuses is an answer too, with its problem document.
 * @param {string} path
 * @param {{ method?: string, body?: string, accept?: string, contentType?: string, signal?: AbortSignal }} [options]
 * @returns {Promise<Answer>}
 */
export async function request(path, { method = "GET", body, accept = "application/json", contentType = "application/json", signal } = {}) {
    const headers = { Accept: accept };
    if (body !== undefined) headers["Content-Type"] = contentType;
    let response;
    try {
        response = await fetch(path, { method, body, headers, signal, cache: "no-store" });
    } catch (error) {
        if (signal?.aborted) throw error;
        return unreachable();
    }
    const text = await response.text();
    const answer = { ok: response.ok, status: response.status, text, headers: response.headers };
    return response.ok ? answer : { ...answer, problem: problemOf(response, text) };
}

/** The parsed body of an answer; a refused request throws the words of the service. */
export async function read(path, options) {
    const answer = await request(path, options);
    if (!answer.ok) throw new Error(answer.problem.detail);
    return JSON.parse(answer.text);
}

function unreachable() {
    const problem = { title: "No connection", status: 0, detail: "the service does not answer; nothing is known about the outcome" };
    return { ok: false, status: 0, text: "", headers: new Headers(), problem };
}

/** The problem document (RFC 9457), or one for an answer by something in between, such as a proxy. */
function problemOf(response, text) {
    try {
        const problem = JSON.parse(text);
        if (typeof problem.detail === "string") return problem;
    } catch {
        // Not from the service.
    }
    return { title: `Status ${response.status}`, status: response.status, detail: `the answer was ${response.status} ${response.statusText}` };
}

/** A key as a segment of a path. */
export function segment(key) {
    return encodeURIComponent(key).replace(/[!'()*]/g, (sign) => `%${sign.charCodeAt(0).toString(16).toUpperCase()}`);
}
