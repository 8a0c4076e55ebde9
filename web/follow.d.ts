/** What `follow` returns: the copy as it is now. */
export interface Feed<State = any> extends AsyncIterable<State> {
    /**
     * The state, or undefined before it is loaded; null only for one aggregate, if it does not exist. If the service starts
     * over, a collection is empty and not exact until the rest has arrived. Never changed: each change makes a new object, which
     * shares what stayed the same.
     */
    readonly state: State | null | undefined;
    /** The revision of the state; undefined before it is loaded. */
    readonly revision: number | undefined;
    /**
     * Whether the state is exactly that of `revision`. Otherwise it is on the way, in the middle of a catch-up: it can be shown,
     * but results computed from it may be wrong.
     */
    readonly exact: boolean;
    /** The id of the state, from which a feed can be followed: `<epoch>.<revision>`, or a partial one. Opaque. */
    readonly id: string | undefined;
    /**
     * Goes on with another token after the service has refused the one before: `onError` got an error with the status 401, and
     * since then the feed has waited. Without an argument it tries the same token again, or calls the function that returns one.
     */
    authorize(token?: Token): void;
    /** Ends everything: the connection, iterators and timers. The promise resolves when the last copy is stored. */
    close(): Promise<void>;
    /**
     * The current state as soon as there is one, and then each later one. States that come and go while nobody asks are
     * skipped. Leaving a loop does not close the feed, closing the feed ends the loop.
     */
    [Symbol.asyncIterator](): AsyncIterableIterator<State>;
}

/** What `onChange` gets beside the state. */
export interface Change {
    revision: number | undefined;
    exact: boolean;
    id: string | undefined;
    /** The merge patch that made this state of the one before; undefined if it was loaded, stored, or sent by another tab. */
    patch: unknown;
}

/** A token of the service, or a function that returns one, which is called for each request. */
export type Token = string | (() => string | undefined | Promise<string | undefined>);

export interface FollowOptions {
    /**
     * Sent as `Authorization: Bearer …`, never in an address. A stored copy stays in its store when the token is gone.
     */
    token?: Token;
    /** Where the copy is stored, together with its id. The next feed goes on from there instead of loading. */
    store?: Store;
    /** Closes the feed. */
    signal?: AbortSignal;
    /** Used instead of the global one, for example to add a header. It should pass on the `signal` that it gets. */
    fetch?: typeof fetch;
    /**
     * Whether tabs and workers of the same origin share one connection, where the platform has Web Locks (secure contexts only)
     * and BroadcastChannel. By default they do, unless there is a `token`, a `fetch` or an `id`: what is shared is seen with the
     * rights of one of them.
     */
    share?: boolean;
    /**
     * Called for each failure: of a connection, which is tried again whatever it was, or of the store. If the service refused, the
     * error has its `status` and its `problem` document. By default, it is a warning on the console. Only after a 401 with a problem
     * document nothing is tried again until `authorize`.
     */
    onError?: (error: Error & { status?: number; problem?: any; retryAfter?: number }) => void;
    /**
     * Follows from this id without a state, for example in order to look at a feed: the state has only what came after, and is
     * not exact until the service starts over. With an empty id, it starts from nothing and becomes exact.
     */
    id?: string;
    /** The URL at which the service is, if it is not the root and this module does not come from there. It ends with a slash. */
    base?: string | URL;
    /** After how many milliseconds without a byte a stream is opened again; 45,000. It has to be longer than `--heartbeat`. */
    silence?: number;
}

/**
 * Keeps an exact copy of a part of the document, and calls `onChange` after each change. Changes that arrive faster than
 * they can be applied and shown are applied together.
 *
 * The URL is that of a state or of its feed: `/aggregates` or `/events`, `/persons` or `/person-events`, `/persons/2` or
 * `/persons/2/events`, with or without a filter.
 *
 * Numbers are those of JavaScript. The service refuses whole numbers beyond ±(2^53 - 1), which JavaScript would round; one that
 * an early version of the service has stored is rounded here, in silence, and only that member differs.
 */
export function follow<State = any>(
    url: string | URL,
    onChange?: (state: State | null, change: Change) => void,
    options?: FollowOptions,
): Feed<State>;

/** A message of a stream. */
export interface Message {
    /** The id that this message sets; undefined if it has none, which is no reason to skip it. */
    id: string | undefined;
    /** `message`, unless the stream names another type. */
    event: string;
    /** For a feed, a merge patch as JSON. */
    data: string;
}

/**
 * The messages of one stream, until it ends. It is not opened again. Throws if the service refuses (with `status` and
 * `problem`), if the connection breaks, or after `silence` milliseconds without a byte.
 */
export function messages(
    url: string | URL,
    options?: {
        /** Where to start. Without it, with all that is kept; if it is empty, with the state as it is now. */
        lastEventId?: string;
        signal?: AbortSignal;
        token?: Token;
        fetch?: typeof fetch;
        silence?: number;
        /** Gets the time to wait before the stream is opened again, in milliseconds. */
        onRetry?: (time: number) => void;
    },
): AsyncGenerator<Message, void, undefined>;

/** A merge patch applied to a value (RFC 7396). Neither is changed, and the result shares what the patch leaves as it is. */
export function mergePatch<T = any>(target: unknown, patch: unknown): T;

/** A copy that is stored. */
export interface StoredCopy {
    /** The feed to which it belongs. */
    url: string;
    id: string;
    exact: boolean;
    /** JSON. */
    state: unknown;
}

/** Where a copy is stored. A copy is stored whole, or not at all. If a function throws or rejects, the feed goes on. */
export interface Store {
    load(): StoredCopy | null | undefined | Promise<StoredCopy | null | undefined>;
    save(copy: StoredCopy): void | Promise<void>;
}

/** A store in `localStorage`, which has room for about five megabytes for all stores of an origin. Not in workers. */
export function localStorageStore(name: string): Store;

/** A store in IndexedDB, for large states, and in workers. */
export function indexedDbStore(name: string): Store;
