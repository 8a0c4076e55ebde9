// Prints the document whenever its copy is exact: node follow_nats.mjs nats://localhost:4222 http://localhost:3000/aggregates
//
// Needs Node 20, @nats-io/transport-node and @nats-io/jetstream. docs/messaging.md explains it.

import { DeliverPolicy, jetstream } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";
import { mergePatch } from "../../web/follow.js";

/** Loads the document, and follows it. Yields each exact state; ends, or throws, when it has to be loaded again. */
async function* follow(connection, url) {
    const options = { filter_subjects: "duality.*.*", deliver_policy: DeliverPolicy.New };
    const consumer = await jetstream(connection).consumers.get("duality", options);
    const { name, delivered } = await consumer.info(true);
    const answer = await fetch(url);
    if (!answer.ok) throw new Error(`${url} answers ${answer.status}`);
    let document = await answer.json();
    const epoch = answer.headers.get("X-Epoch");
    let start = Number(answer.headers.get("X-Revision")), last = delivered.stream_seq;
    yield document;
    for (;; await consumer.info()) {
        for await (const message of await consumer.fetch({ max_messages: 1000, expires: 5000 })) {
            const { headers, info, seq } = message;
            const [life, revision, partial] = headers.get("Duality-Id").split(".");
            if (headers.get("Catch-Up") === String(seq)) [document, start, last] = [{}, -1, seq - 1];
            const isNew = Number(revision) > start;
            if (info.consumer !== name || seq !== last + 1 || !(isNew || life === epoch)) return;
            last = seq;
            if (isNew) {
                const [, collection, token] = message.subject.split(".");
                const patch = token === "_" ? message.json() : { [decodeURIComponent(token)]: message.json() };
                document = mergePatch(document, { [collection]: patch });
            }
            const [part, parts] = headers.get("Part").split("/");
            if (part === parts && !partial) yield document;
        }
    }
}

const [broker, url] = process.argv.slice(2);
for (;;) {
    let connection;
    try {
        connection = await connect({ servers: broker, reconnect: false });
        for await (const document of follow(connection, url)) console.log(JSON.stringify(document));
    } catch (error) {
        console.error(error.message);
    }
    await connection?.close();
    await new Promise((resolve) => setTimeout(resolve, 1000));
}
