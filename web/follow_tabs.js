/** A part of follow.js, which loads it when it is needed: one connection for all tabs. */

import { onWake } from "./follow.js";

/** How long the tab that has the connection may take to answer another one, in milliseconds. */
const LEADER_ANSWERS = 5_000;

/**
 * One connection for all tabs of an origin: the tab that holds the lock leads; it connects, and sends the others what it
 * receives. The next one in the queue of the lock goes on from its own copy, so that nothing is lost in between.
 */
export function share(copy, { events, silence, rights }, connect, closing) {
    if (closing.aborted) return;
    const name = `duality ${events.href}`;
    const me = Math.random().toString(36).slice(2);
    const channel = new BroadcastChannel(name);
    // The leader, how many messages of it this tab has (has sent, as the leader), and when the leader was last heard of.
    let leader, position = 0, heard = 0;
    let question, candidacy, isImpatient = false;

    const send = (message) => channel.postMessage({ leader: me, position, ...message });

    async function queueForTheLock() {
        while (!closing.aborted) {
            const term = new AbortController();
            const end = () => term.abort();
            closing.addEventListener("abort", end);
            candidacy = new AbortController();
            const options = isImpatient ? { steal: true } : { signal: candidacy.signal };
            isImpatient = false;
            try {
                await navigator.locks.request(name, options, () => lead(term.signal));
            } catch (error) {
                // An AbortError: another tab has taken the lock, or this one leaves the queue in order to take it.
                if (error.name !== "AbortError") return alone();
            } finally {
                end();
                closing.removeEventListener("abort", end);
                leader = undefined;
                copy.onReceive = () => {};
            }
        }
        channel.close();
    }
    /** Where the browser allows no locks, there is nothing to share. */
    function alone() {
        stopSharing();
        channel.close();
        return connect(closing, () => {});
    }
    function stopSharing() {
        clearInterval(watch);
        stopAsking();
        stopWaking();
        rights.onRenew = () => {};
        candidacy.abort();
    }
    async function lead(signal) {
        if (signal.aborted) return;
        stopAsking();
        leader = me;
        position = 0;
        send({ id: copy.snapshot()?.id });
        await connect(signal, (received) => {
            if (signal.aborted) return;
            if (received.copy || received.messages.length > 0) position += 1;
            send(received);
        });
    }
    function hear({ data: message }) {
        if (leader === me) return message.question && answer(message);
        if (message.question) return;
        heard = Date.now();
        const isNext = message.leader === leader && message.position === position + 1;
        const isCurrent = message.leader === leader && message.position === position;
        const isFollowing = message.id && message.id === copy.snapshot()?.id;
        if (message.copy && !isCurrent) copy.replace(message.copy);
        else if (message.messages && isNext) copy.receive(message.messages);
        else if (!isCurrent && !isFollowing) return ask();
        leader = message.leader;
        position = message.position;
        stopAsking();
    }
    function answer(asked) {
        const isCurrent = asked.leader === me && asked.position === position;
        send(isCurrent ? {} : { copy: copy.snapshot() });
    }
    /** Asks the leader for what is missing here, and takes its place if it does not answer. */
    function ask() {
        if (leader === me || question || closing.aborted) return;
        const asked = Date.now();
        channel.postMessage({ question: true, leader, position });
        question = setTimeout(() => {
            question = undefined;
            // The leader may be loading. Nobody looks at a hidden tab, and its timers are late.
            if (heard >= asked) return ask();
            if (!globalThis.document?.hidden) takeTheLock();
        }, LEADER_ANSWERS);
    }
    function takeTheLock() {
        isImpatient = true;
        candidacy.abort();
    }
    function stopAsking() {
        clearTimeout(question);
        question = undefined;
    }

    channel.onmessage = hear;
    // The leader may have the token that was refused.
    rights.onRenew = () => leader !== me && takeTheLock();
    const watch = setInterval(() => Date.now() - heard > silence && ask(), silence / 3);
    const stopWaking = onWake(ask);
    closing.addEventListener("abort", stopSharing);
    ask();
    queueForTheLock();
}
