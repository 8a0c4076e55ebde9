// How bytes become messages, and patches become states, without a service.

import assert from "node:assert/strict";
import { test } from "node:test";
import { follow, mergePatch, messages } from "../../../web/follow.js";
import { eventually, random } from "./service.mjs";

const STREAM = { headers: { "Content-Type": "text/event-stream" } };

/** A fetch whose response has these pieces, and then ends. */
function streamOf(...pieces) {
    return async () => new Response(ReadableStream.from(pieces.map((piece) => Buffer.from(piece))), STREAM);
}

async function read(...pieces) {
    const retries = [];
    const found = [];
    const options = { fetch: streamOf(...pieces), onRetry: (time) => retries.push(time) };
    for await (const message of messages("http://localhost/persons", options)) found.push(message);
    return { found, retries };
}

const TEXT = [
    ":", "retry: 1234", 'data: {"1":"é😀\u2028"}', "id: e.1", "",
    ": a comment", "data", "data:two", "data:  lines", "event: other", "id", "",
    "id: e.3", "", "data: of the id before", "", "id: with\0", "unknown: x", "data:", "", "data: incomplete",
].join("\n");

const MESSAGES = [
    { id: "e.1", event: "message", data: '{"1":"é😀\u2028"}' },
    { id: "", event: "other", data: "\ntwo\n lines" },
    { id: "e.3", event: "message", data: "of the id before" },
    { id: undefined, event: "message", data: "" },
];

test("a stream may be cut at any byte, and its lines may end in LF, CR or both", async () => {
    for (const end of ["\n", "\r", "\r\n"]) {
        const bytes = Buffer.from(TEXT.replaceAll("\n", end));
        for (let at = 0; at <= bytes.length; at += 1) {
            const { found, retries } = await read(bytes.subarray(0, at), bytes.subarray(at));
            assert.deepEqual(found, MESSAGES, `${JSON.stringify(end)}, cut at ${at}`);
            assert.deepEqual(retries, [1234]);
        }
        const { found } = await read(...[...bytes].map((byte) => [byte]));
        assert.deepEqual(found, MESSAGES, `${JSON.stringify(end)}, byte by byte`);
    }
});

test("a byte order mark is allowed at the beginning only", async () => {
    const { found } = await read("\uFEFFdata: 1\n\n\uFEFFdata: 2\n\n");
    assert.deepEqual(found.map(({ data }) => data), ["1"]);
});

test("a message that was not ended is none", async () => {
    assert.deepEqual((await read("data: 1\nid: e.1\n")).found, []);
});

// RFC 7396, appendix A, and what its text says beyond.
const MERGES = [
    [{ a: "b" }, { a: "c" }, { a: "c" }],
    [{ a: "b" }, { b: "c" }, { a: "b", b: "c" }],
    [{ a: "b" }, { a: null }, {}],
    [{ a: "b", b: "c" }, { a: null }, { b: "c" }],
    [{ a: ["b"] }, { a: "c" }, { a: "c" }],
    [{ a: "c" }, { a: ["b"] }, { a: ["b"] }],
    [{ a: { b: "c" } }, { a: { b: "d", c: null } }, { a: { b: "d" } }],
    [{ a: [{ b: "c" }] }, { a: [1] }, { a: [1] }],
    [["a", "b"], ["c", "d"], ["c", "d"]],
    [{ a: "b" }, ["c"], ["c"]],
    [{ a: "foo" }, null, null],
    [{ a: "foo" }, "bar", "bar"],
    [{ e: null }, { a: 1 }, { e: null, a: 1 }],
    [[1, 2], { a: "b", c: null }, { a: "b" }],
    [{}, { a: { bb: { ccc: null } } }, { a: { bb: {} } }],
    [null, { a: 1 }, { a: 1 }],
    [{ a: {} }, { a: null }, {}],
    [{}, { toString: { a: null } }, { toString: {} }],
];

test("patches are merged as in RFC 7396", () => {
    for (const [target, patch, expected] of MERGES) {
        const text = JSON.stringify([target, patch]);
        assert.deepEqual(mergePatch(target, patch), expected, text);
        assert.equal(JSON.stringify([target, patch]), text, "neither is changed");
    }
});

test("a merged value shares what a patch leaves as it is", () => {
    const target = { a: { b: 1 }, c: { d: [] } };
    assert.equal(mergePatch(target, {}), target);
    assert.equal(mergePatch(target, { x: null, a: { b: 1 } }), target);
    const merged = mergePatch(target, { a: { b: 2 } });
    assert.equal(merged.c, target.c);
    assert.notEqual(merged.a, target.a);
});

test("no name of a member reaches a prototype", () => {
    const merged = mergePatch({}, JSON.parse('{"__proto__":{"evil":1},"constructor":{"prototype":{"evil":1}}}'));
    assert.equal({}.evil, undefined);
    assert.equal(merged.evil, undefined);
    assert.equal(JSON.stringify(merged), '{"__proto__":{"evil":1},"constructor":{"prototype":{"evil":1}}}');
});

/** A small random value; null where it may stand. */
function value(dice, depth, nullable) {
    const kind = dice(6);
    if (kind === 0 && nullable) return null;
    if (kind < 2 || depth === 0) return dice(3);
    if (kind === 2) return [dice(2)];
    return Object.fromEntries(Array.from({ length: dice(4) }, () => ["abc"[dice(3)], value(dice, depth - 1, nullable)]));
}

test("messages that arrive together give what they give one by one, and each patch leads to the next state", async () => {
    const dice = random(7396);
    for (let round = 0; round < 300; round += 1) {
        const patches = Array.from({ length: 1 + dice(8) }, () => value(dice, 3, true));
        const text = patches.map((patch, index) => `data: ${JSON.stringify(patch)}\nid: e.${index + 1}\n\n`).join("");
        let last;
        // It is opened once, and stays open.
        const stream = new Response(new ReadableStream({ start: (to) => to.enqueue(Buffer.from(text)) }), STREAM);
        const feed = follow("http://localhost/persons/1", (state, { patch, exact, id }) => {
            last = mergePatch(last, patch);
            assert.deepEqual(state, last);
            assert.deepEqual({ exact, revision: feed.revision }, { exact: true, revision: Number(id.split(".")[1]) });
        }, { id: "", fetch: async () => stream });
        await eventually("the last message is applied", () => feed.revision === patches.length);
        const expected = patches.reduce((state, patch) => mergePatch(state, patch), undefined);
        assert.deepEqual(feed.state, expected, JSON.stringify(patches));
        feed.close();
    }
});
