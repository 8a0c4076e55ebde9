// Waiting for a condition, with a message that says what never came.

/**
 * Asks again and again until the answer is true, and returns it.
 * @param {string} what what is waited for, for the message
 * @param {() => unknown} condition may be asynchronous; what it throws counts as "not yet"
 */
export async function until(what, condition, seconds = 60) {
    const end = performance.now() + seconds * 1000;
    let last;
    while (performance.now() < end) {
        try {
            last = await condition();
            if (last) return last;
        } catch (error) {
            last = error;
        }
        await new Promise((resolve) => setTimeout(resolve, 20));
    }
    const said = last instanceof Error ? last.stack : JSON.stringify(last);
    throw new Error(`not within ${seconds} s: ${what}; the last answer was ${said}`);
}
