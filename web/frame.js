/**
 * Everything that changes with the data is drawn here: once in a frame, however many messages arrived since the last one.
 */

const waiting = new Set();

/** Calls `render` of a view, or of a part of one, in the next frame. */
export function draw(view) {
    if (waiting.size === 0) requestAnimationFrame(drawAll);
    waiting.add(view);
}

function drawAll() {
    const views = [...waiting];
    waiting.clear();
    for (const view of views) view.render();
}
