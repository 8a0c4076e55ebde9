/**
 * Everything that changes with the data is drawn here: once in a frame, however many messages arrived since the last one.
 */

const waiting = new Set();

/** Draws something in the next frame, once, however often this is called before. */
export function draw(render) {
    if (waiting.size === 0) requestAnimationFrame(drawAll);
    waiting.add(render);
}

function drawAll() {
    const renders = [...waiting];
    waiting.clear();
    for (const render of renders) render();
}
