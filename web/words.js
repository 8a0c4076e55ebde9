/** Numbers, times and sizes as people read them. */

import { element } from "./dom.js";

const whole = new Intl.NumberFormat("en-US");

export function grouped(number) {
    return whole.format(number);
}

/** 0.4 s, 9 s, 3 min, 2 h. */
export function age(since, now = Date.now()) {
    const seconds = Math.max(0, now - since) / 1000;
    if (seconds < 1) return `${seconds.toFixed(1)} s`;
    if (seconds < 60) return `${Math.floor(seconds)} s`;
    if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
    return seconds < 86400 ? `${Math.floor(seconds / 3600)} h` : `${Math.floor(seconds / 86400)} d`;
}

export function size(bytes) {
    let amount = bytes;
    for (const unit of ["B", "KiB", "MiB", "GiB"]) {
        if (amount < 1024) return unit === "B" ? `${amount} B` : `${amount.toFixed(1)} ${unit}`;
        amount /= 1024;
    }
    return `${amount.toFixed(1)} TiB`;
}

export function count(number, one) {
    return `${grouped(number)} ${one}${number === 1 ? "" : "s"}`;
}

export function moment(time) {
    return element("time", { datetime: time, title: time }, time.slice(0, 19).replace("T", " "));
}
