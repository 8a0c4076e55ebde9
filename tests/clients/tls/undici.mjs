// Writes and follows over TLS with a token, by the undici in Node: node undici.mjs URL. The token is in
// DUALITY_TOKEN, and the authority in the file NODE_EXTRA_CA_CERTS.

const url = process.argv[2];
const headers = { Authorization: `Bearer ${process.env.DUALITY_TOKEN}`, "Content-Type": "application/json" };

async function ok(response) {
    if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
    return response;
}

const stream = await ok(await fetch(`${url}/person-events`, { headers: { ...headers, Accept: "text/event-stream" } }));
const created = await ok(await fetch(`${url}/persons`, { method: "POST", headers, body: JSON.stringify({ name: "undici" }) }));
const revision = created.headers.get("X-Revision");
let text = "";
for await (const part of stream.body.pipeThrough(new TextDecoderStream())) {
    text += part;
    if (text.includes(`.${revision}\n`) && text.includes('"undici"')) break;
}
console.log("undici");
process.exit();
