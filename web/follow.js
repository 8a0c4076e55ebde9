/**
 * Keeps an exact copy of what a duality service publishes, and calls back when it changes:
 *
 *     import { follow } from "http://localhost:3000/follow.js";
 *     const feed = follow("http://localhost:3000/person-events", (persons) => render(persons));
 *
 * It loads the state once, follows the changes after it, and comes back from whatever cuts the connection. It runs in
 * browsers, in workers and in Node 20 or later. The interface, with its options, is described in follow.d.ts.
 */

// All times are in milliseconds.

/** How long a stream may be without a byte: three heartbeats of the service. */
const SILENCE = 45_000;

/** The first pause between two attempts to connect, until the service names one, and the limits of what it may name. */
const RETRY = 1_000;
const LEAST_PAUSE = 10;
const LONGEST_PAUSE = 30_000;

/** The time from a change until it is stored, with all that follow, and after a failure. */
const SAVE_AFTER = 1_000;
const SAVE_AFTER_FAILURE = 60_000;

/** What a feed's query may have that does not select anything. */
const CURSOR_PARAMETERS = ["lastEventId", "revision", "epoch", "strict", "compact"];

export function follow(url, onChange = () => {}, options = {}) {
    const { store, fetch, id, silence = SILENCE } = options;
    const report = options.onError ?? ((error) => console.warn(`${url}: ${error.message}`));
    const rights = new Rights(options.token);
    const context = { ...pathsOf(url, options.base), fetch, silence, rights, token: () => rights.token(), onError: (error) => callBack(report, error) };
    const copy = new Copy(onChange, context.empty);
    const saver = store && keepStored(copy, store, context);
    const closing = new AbortController();

    /** Follows until the signal, and tells what it receives. */
    async function connect(signal, onReceive) {
        copy.onReceive = onReceive;
        if (copy.id === undefined) await saver?.load();
        saver?.start();
        await keepConnected(copy, context, signal);
        saver?.stop();
    }
    function close() {
        copy.close();
        closing.abort();
        return Promise.resolve(saver?.close());
    }

    const alone = () => connect(closing.signal, () => {});
    // Where there is only this file, nothing is shared.
    const share = () => import("./follow_tabs.js").then((tabs) => tabs.share(copy, context, connect, closing.signal), alone);

    if (id !== undefined) copy.begin(id);
    options.signal?.addEventListener("abort", close, { signal: closing.signal });
    // A token or a fetch of one's own may have the rights of somebody else, and an id of one's own starts somewhere else.
    const shared = options.share ?? [fetch, id, options.token].every((own) => own === undefined);
    if (options.signal?.aborted) close();
    else if (shared && globalThis.navigator?.locks && globalThis.BroadcastChannel) share();
    else alone();

    return {
        get state() { return copy.state; },
        get revision() { return revisionOf(copy.id); },
        get exact() { return copy.exact; },
        get id() { return copy.id; },
        authorize: (token) => rights.renew(token),
        close,
        [Symbol.asyncIterator]: () => copy.states(),
    };
}

/** Loads the copy unless there is one, and follows it; starts again after each failure, until the signal. */
async function keepConnected(copy, context, signal) {
    for (let failures = 0, retry = RETRY; !signal.aborted; failures += 1) {
        const start = Date.now();
        const { renewed } = context.rights;
        let failure;
        try {
            if (copy.id === undefined) copy.replace(await load({ ...context, signal }));
            const onRetry = (time) => { retry = Math.max(time, LEAST_PAUSE); };
            for await (const batch of batches(context.events, { ...context, lastEventId: copy.id, signal, onRetry })) {
                if (batch.length > 0 || Date.now() - start > LONGEST_PAUSE) failures = 0;
                copy.receive(batch);
            }
        } catch (error) {
            failure = error;
        }
        // The next attempt starts from everything that has arrived.
        copy.flush();
        if (signal.aborted) return;
        if (failure) context.onError(failure);
        // A token that was refused is not tried again.
        if (failure?.status === 401 && failure.problem) {
            await Promise.race([renewed, new Promise((resolve) => signal.addEventListener("abort", resolve))]);
            failures = -1;
            continue;
        }
        const pause = Math.min(retry * 2 ** failures, LONGEST_PAUSE) * (1 + Math.random() / 2);
        await sleep(Math.max(pause, failure?.retryAfter ?? 0), signal);
    }
}

/** The token of a feed. After the service has refused it, the feed waits for another one. */
class Rights {
    /** Called when there is another one. */
    onRenew = () => {};
    #token;
    #next = deferred();

    constructor(token) {
        this.#token = token;
    }

    token() {
        return typeof this.#token === "function" ? this.#token() : this.#token;
    }

    /** Resolves with the next call of `renew`. */
    get renewed() {
        return this.#next.promise;
    }

    renew(token = this.#token) {
        this.#token = token;
        this.#next.resolve();
        this.#next = deferred();
        this.onRenew();
    }
}

/** The state with its id, and what has arrived and is not yet applied. */
class Copy {
    state = undefined;
    /** The id of the state, `<epoch>.<revision>`; empty if it is nothing so far, undefined before the load. */
    id = undefined;
    exact = false;
    /** Called with `{ messages }` when some have arrived, and with `{ copy }` after a load. */
    onReceive = () => {};
    /** Called after each change. */
    onSave = () => {};

    #onChange;
    #empty;
    /** Whether nothing is missing up to the id; otherwise there is only what came after some id. */
    #whole = false;
    #pending = undefined;
    #timer = undefined;
    #notBefore = 0;
    #version = 0;
    #changed = deferred();
    #closed = false;

    constructor(onChange, empty) {
        this.#onChange = onChange;
        this.#empty = empty;
    }

    /** Starts from an id without a state; from nothing if it is empty. */
    begin(id) {
        this.id = id;
        this.#whole = id === "";
    }

    /** Takes a copy that was loaded, stored, or sent by another tab. */
    replace({ state, id, exact = isComplete(id), whole = true }) {
        if (this.#closed) return;
        this.#pending = undefined;
        this.#whole = whole;
        this.#set(state, id, exact, undefined);
        this.onReceive({ copy: this.snapshot() });
    }

    /** Everything that `replace` takes; undefined before the load. */
    snapshot() {
        this.flush();
        const { state, id, exact } = this;
        return id === undefined ? undefined : { state, id, exact, whole: this.#whole };
    }

    /**
     * Takes messages that arrived together. A large object takes milliseconds to copy and to render: what arrives within
     * three times what the last change took is applied together.
     */
    receive(messages) {
        for (const { id, event, data } of messages) {
            if (event === "message") this.#add(JSON.parse(data), id);
        }
        this.onReceive({ messages });
        if (!this.#pending) return;
        const wait = this.#notBefore - performance.now();
        if (wait <= 0) this.flush();
        else this.#timer ??= setTimeout(() => this.flush(), wait);
    }

    #add(patch, id) {
        if (this.#pending && !isComposable(this.#pending.patch, patch)) this.flush();
        const before = this.#pending;
        this.#pending = {
            patch: before ? compose(before.patch, patch) : patch,
            id: id || (before?.id ?? this.id),
            // In the middle of a catch-up, messages have a partial id, or none. One without an id that changes nothing, such
            // as the empty state with which a stream from revision 0 begins, leaves an exact copy exact: undefined.
            exact: id ? isComplete(id) : before?.exact === undefined ? undefined : false,
        };
    }

    /** Applies what has arrived. */
    flush() {
        clearTimeout(this.#timer);
        this.#timer = undefined;
        if (!this.#pending || this.#closed) return;
        const { patch, id, exact } = this.#pending;
        this.#pending = undefined;
        // A reset starts from nothing; an aggregate that does not exist has nothing that could be missing.
        if (patch === null) this.#whole = true;
        const start = performance.now();
        const state = mergePatch(this.state, patch);
        this.#set(state, id, (exact ?? (state === this.state && this.exact)) && this.#whole, patch);
        const end = performance.now();
        this.#notBefore = end + Math.min(3 * (end - start), 250);
    }

    #set(state, id, exact, patch) {
        if (state === null) state = this.#empty;
        if (state === this.state && id === this.id && exact === this.exact) return;
        Object.assign(this, { state, id, exact });
        if (state === undefined) return;
        this.#version += 1;
        this.#changed.resolve();
        this.#changed = deferred();
        this.onSave();
        callBack(this.#onChange, state, { revision: revisionOf(id), exact, id, patch });
    }

    /** The states, without those that came and went while nobody asked. */
    async *states() {
        for (let seen = 0; !this.#closed; ) {
            if (seen === this.#version) {
                await this.#changed.promise;
            } else {
                seen = this.#version;
                yield this.state;
            }
        }
    }

    close() {
        this.flush();
        this.#closed = true;
        this.#changed.resolve();
    }
}

/**
 * Keeps the copy in a store, together with its id. A failure does no harm: what is stored stays a valid pair, from which a
 * feed only has more to catch up.
 */
function keepStored(copy, store, { events, onError }) {
    let isOn = false, isChanged = false, isSaving = false, timer, saved;

    const schedule = (time) => {
        if (isOn && isChanged && !isSaving) timer ??= setTimeout(save, time);
    };
    copy.onSave = () => {
        isChanged = true;
        schedule(SAVE_AFTER);
    };
    /** Starts to save if there is something to save. A store may save at once, as it has to when the page is closed. */
    function save() {
        clearTimeout(timer);
        timer = undefined;
        const { state, id, exact, whole } = copy.snapshot() ?? {};
        if (isOn && isChanged && !isSaving && id && whole) saved = write({ url: events.href, id, exact, state });
    }
    async function write(pair) {
        isSaving = true;
        isChanged = false;
        let pause = SAVE_AFTER;
        try {
            await store.save(pair);
        } catch (error) {
            isChanged = true;
            pause = SAVE_AFTER_FAILURE;
            onError(error);
        }
        isSaving = false;
        schedule(pause);
    }
    globalThis.addEventListener?.("pagehide", save);

    return {
        async load() {
            try {
                const stored = await store.load();
                // A cursor belongs to one feed and one filter.
                if (stored?.id && stored.url === events.href && copy.id === undefined) copy.replace(stored);
            } catch (error) {
                onError(error);
            }
            isChanged = false;
        },
        start() { isOn = true; },
        stop() {
            save();
            isOn = false;
            clearTimeout(timer);
            timer = undefined;
        },
        async close() {
            globalThis.removeEventListener?.("pagehide", save);
            await saved;
            this.stop();
            await saved;
        },
    };
}

/** A store in `localStorage`, which holds about five megabytes for all of an origin. */
export function localStorageStore(name) {
    const key = `duality ${name}`;
    return {
        load: () => JSON.parse(localStorage.getItem(key)),
        save: (copy) => localStorage.setItem(key, JSON.stringify(copy)),
    };
}

/** A store in IndexedDB, for large states, and for workers. */
export function indexedDbStore(name) {
    const completed = (request) => new Promise((resolve, reject) => {
        request.onsuccess = () => resolve(request.result);
        request.onerror = () => reject(request.error);
    });
    async function withCopies(mode, use) {
        const opening = indexedDB.open("duality", 1);
        opening.onupgradeneeded = () => opening.result.createObjectStore("copies");
        const database = await completed(opening);
        try {
            const transaction = database.transaction("copies", mode);
            const done = new Promise((resolve, reject) => {
                transaction.oncomplete = resolve;
                transaction.onabort = () => reject(transaction.error);
            });
            const [result] = await Promise.all([completed(use(transaction.objectStore("copies"))), done]);
            return result;
        } finally {
            database.close();
        }
    }
    return {
        load: () => withCopies("readonly", (copies) => copies.get(name)),
        save: (copy) => withCopies("readwrite", (copies) => copies.put(copy, name)),
    };
}

/** The messages of one stream, until it ends. Throws if it is refused, if it breaks, or if nothing comes for too long. */
export async function* messages(url, options = {}) {
    for await (const batch of batches(absolute(url), options)) yield* batch;
}

/** The messages of a stream, those that arrived together in one array; an empty one is a sign of life. */
async function* batches(url, { lastEventId, onRetry, ...options }) {
    // A header would need a preflight request from another origin. Without a cursor, the state is shorter than the log.
    const cursor = lastEventId ? `lastEventId=${encodeURIComponent(lastEventId)}` : lastEventId === "" ? "compact=true" : "";
    const address = new URL(url);
    if (cursor) address.search += `${address.search ? "&" : "?"}${cursor}`;
    const { text } = await open(address, "text/event-stream", { ...options, cache: "no-store" });
    const parse = eventParser(onRetry);
    for await (const piece of text) yield parse(piece);
}

/** A function that takes the text of a stream piece by piece, and returns the messages that are complete. */
function eventParser(onRetry = () => {}) {
    let rest = "", endedInCr = false, data = [], event = "", id;

    function dispatch() {
        const message = { id, event: event || "message", data: data.join("\n") };
        const isEmpty = data.length === 0;
        data = [];
        event = "";
        // An id without data belongs to the next message.
        if (isEmpty) return [];
        id = undefined;
        return [message];
    }
    function take(line) {
        if (line === "") return dispatch();
        const [, field, value] = /^([^:]*)(?:: ?)?([^]*)$/.exec(line);
        if (field === "data") data.push(value);
        else if (field === "event") event = value;
        else if (field === "id" && !value.includes("\0")) id = value;
        else if (field === "retry" && /^\d+$/.test(value)) onRetry(Number(value));
        return [];
    }
    return (piece) => {
        // A line ends with CR, LF or both, and a piece may end between the two.
        const text = endedInCr && piece.startsWith("\n") ? piece.slice(1) : piece;
        if (piece !== "") endedInCr = text.endsWith("\r");
        if (!/[\r\n]/.test(text)) {
            rest += text;
            return [];
        }
        const lines = (rest + text).split(/\r\n|\r|\n/);
        rest = lines.pop();
        return lines.flatMap(take);
    };
}

/**
 * Merges a patch into a value (RFC 7396). Neither is changed: the result is a new object where something differs, and
 * shares the rest.
 */
export function mergePatch(target, patch) {
    if (!isObject(patch)) return patch;
    let merged = isObject(target) ? target : {};
    for (const [key, value] of Object.entries(patch)) {
        const before = Object.hasOwn(merged, key) ? merged[key] : undefined;
        const after = value === null ? undefined : mergePatch(before, value);
        if (after === before) continue;
        if (merged === target) merged = { ...target };
        if (after === undefined) delete merged[key];
        else put(merged, key, after);
    }
    return merged;
}

/** Whether one patch can do what two do: not if an object follows what is not one, which it would have to replace. */
function isComposable(first, second) {
    if (!isObject(second)) return true;
    if (!isObject(first)) return false;
    return Object.keys(second).every((key) => !Object.hasOwn(first, key) || isComposable(first[key], second[key]));
}

/** The one patch that does what two do. It takes the place of the first, which it changes. */
function compose(first, second) {
    if (!isObject(second)) return second;
    for (const [key, value] of Object.entries(second)) {
        put(first, key, Object.hasOwn(first, key) ? compose(first[key], value) : value);
    }
    return first;
}

const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

/** Sets a member, whatever its name: an assignment to `__proto__` would change the prototype. */
function put(object, key, value) {
    if (key !== "__proto__") object[key] = value;
    else Object.defineProperty(object, key, { value, enumerable: true, configurable: true, writable: true });
}

/** `<epoch>.<revision>`; a partial id, of a catch-up that is not finished, has more parts. */
const isComplete = (id) => /^[^.]+\.\d+$/.test(id ?? "");

const revisionOf = (id) => (id ? Number(id.split(".")[1]) : undefined);

const absolute = (url) => new URL(url, globalThis.document?.baseURI ?? globalThis.location?.href);

/** The URLs of the feed, and of its state if the path says it. `base` is where the service is, behind a proxy. */
function pathsOf(url, base = new URL(".", import.meta.url)) {
    const given = absolute(url);
    given.hash = "";
    let root = absolute(base);
    if (!given.href.startsWith(root.href)) root = new URL("/", given);
    const [first, second, third, ...more] = given.pathname.slice(root.pathname.length).split("/");
    const at = (...parts) => Object.assign(new URL(given), { pathname: root.pathname + parts.join("/") });
    // After a reset, a collection is empty; one aggregate does not exist.
    const empty = second && first !== "events" ? null : {};
    const paths = (events, state) => ({ root, events, state: state && withoutCursor(state), empty });

    if (first && second === undefined) {
        if (first === "aggregates") return paths(at("events"), given);
        if (first === "events") return paths(given, at("aggregates"));
        if (first.endsWith("-events")) return paths(given, undefined);
        return paths(at("events", first), given);
    }
    if (first && second && third === undefined) {
        return first === "events" ? paths(given, at(second)) : paths(at(first, second, "events"), given);
    }
    if (first && second && third === "events" && more.length === 0) return paths(given, at(first, second));
    throw new TypeError(`${given.href} is neither a state nor a feed of ${root.href}`);
}

function withoutCursor(url) {
    const state = new URL(url);
    for (const name of CURSOR_PARAMETERS) if (state.searchParams.has(name)) state.searchParams.delete(name);
    return state;
}

/** The state and its id. Both are empty if nobody says where the state is: the stream sends it as well. */
async function load(context) {
    const state = context.state ?? (await findState(context));
    if (!state) return { state: undefined, id: "" };
    const { response, text } = await open(state, "application/json", context, (status) => status === 404);
    const body = await joined(text);
    const [epoch, revision] = ["X-Epoch", "X-Revision"].map((name) => response.headers.get(name));
    // An aggregate that does not exist has a revision too; a path that does not exist has none.
    if (!epoch || !revision) throw refusal(response, body, "no X-Epoch and X-Revision");
    return { state: response.ok ? JSON.parse(body) : null, id: `${epoch}.${revision}` };
}

/** The URL of the state of a feed such as `/person-events`, from the index of the service. */
async function findState({ root, events, ...context }) {
    const { text } = await open(root, "application/json", context, (status) => status < 500);
    const index = await joined(text);
    const path = events.pathname.slice(root.pathname.length - 1);
    try {
        const { state } = JSON.parse(index).collections.find((collection) => collection.events === path);
        return withoutCursor(Object.assign(new URL(events), { pathname: root.pathname + state.slice(1) }));
    } catch {
        // Behind a proxy, another app may be there.
        return undefined;
    }
}

/** A response, and its body as text, piece by piece. Throws if it is not what was asked for. */
async function open(url, type, { fetch = globalThis.fetch, cache = "default", silence = SILENCE, signal, token }, allows = () => false) {
    const watch = watchSilence(silence, signal);
    try {
        const secret = typeof token === "function" ? await token() : token;
        const headers = { Accept: type, ...(secret && { Authorization: `Bearer ${secret}` }) };
        const response = await fetch(url, { headers, cache, signal: watch.signal });
        const text = pieces(response, watch);
        const given = response.headers.get("Content-Type") ?? "";
        if (!(response.ok && given.startsWith(type)) && !allows(response.status)) {
            throw refusal(response, await joined(text), `${given || "nothing"} instead of ${type}`);
        }
        return { response, text };
    } catch (error) {
        watch.stop();
        throw error;
    }
}

async function* pieces(response, watch) {
    // It drops a byte order mark at the beginning.
    const decoder = new TextDecoder();
    const reader = response.body?.getReader();
    // A fetch of one's own may not care for its signal.
    watch.signal.addEventListener("abort", () => reader?.cancel().catch(() => {}));
    try {
        for (let read = await reader?.read(); read && !read.done; read = await reader.read()) {
            watch.reset();
            yield decoder.decode(read.value, { stream: true });
        }
        watch.signal.throwIfAborted();
    } finally {
        watch.stop();
    }
}

async function joined(text) {
    let whole = "";
    for await (const piece of text) whole += piece;
    return whole;
}

/** What `onError` gets for an unusable answer: with its status, its problem document, and the time to wait. */
function refusal(response, body, otherwise) {
    let problem;
    try {
        problem = JSON.parse(body);
    } catch {
        // A proxy sends a page.
    }
    const said = problem?.detail ?? problem?.title ?? (response.ok ? otherwise : response.statusText);
    const error = new Error(`${response.url}: ${response.status} ${said}`);
    return Object.assign(error, { status: response.status, problem, retryAfter: timeToWait(response.headers.get("Retry-After")) });
}

/** `Retry-After` has seconds, or a date (RFC 9110, 10.2.3). No more than a quarter of an hour is taken from it. */
function timeToWait(header) {
    if (!header) return undefined;
    const time = /^\d+$/.test(header) ? Number(header) * 1_000 : Date.parse(header) - Date.now();
    return Math.min(Math.max(time || 0, 0), 900_000);
}

/**
 * A signal that follows another one, and comes when nothing was reset for too long. A computer that sleeps stops timers,
 * but not its clock, and with another network a connection is dead even if nobody says so.
 */
function watchSilence(silence, signal) {
    const controller = new AbortController();
    let last = Date.now();
    const cut = (why) => controller.abort(new Error(why));
    const check = () => Date.now() - last > silence && cut(`nothing came for ${silence} ms`);
    const timer = setInterval(check, Math.max(silence / 8, 10));
    const stopWaking = onWake((event) => (event.type === "online" ? cut("the network has changed") : check()));
    const follow = () => controller.abort(signal.reason);
    signal?.addEventListener("abort", follow);
    controller.signal.addEventListener("abort", () => {
        clearInterval(timer);
        stopWaking();
        signal?.removeEventListener("abort", follow);
    });
    if (signal?.aborted) follow();
    return {
        signal: controller.signal,
        reset() { last = Date.now(); },
        stop() { controller.abort(); },
    };
}

/** Calls back when the computer is online again, and when the page is shown again. Returns how to stop that. Not an interface. */
export function onWake(wake) {
    const shown = (event) => globalThis.document.visibilityState === "visible" && wake(event);
    globalThis.addEventListener?.("online", wake);
    globalThis.document?.addEventListener("visibilitychange", shown);
    return () => {
        globalThis.removeEventListener?.("online", wake);
        globalThis.document?.removeEventListener("visibilitychange", shown);
    };
}

/** Waits, but no longer than until the signal, or until somebody looks at the page again. */
function sleep(time, signal) {
    return new Promise((resolve) => {
        const wake = () => {
            clearTimeout(timer);
            stopWaking();
            signal.removeEventListener("abort", wake);
            resolve();
        };
        const timer = setTimeout(wake, time);
        const stopWaking = onWake(wake);
        signal.addEventListener("abort", wake);
        if (signal.aborted) wake();
    });
}

/** Calls a function of the caller. A mistake in it is reported like any other, and the feed goes on. */
function callBack(function_, ...values) {
    try {
        function_(...values);
    } catch (error) {
        queueMicrotask(() => { throw error; });
    }
}

function deferred() {
    let resolve;
    const promise = new Promise((settle) => { resolve = settle; });
    return { promise, resolve };
}
