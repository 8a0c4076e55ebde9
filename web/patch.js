/** JSON merge patches (RFC 7396) in place. */

export function isObject(value) {
    return value !== null && typeof value === "object" && !Array.isArray(value);
}

/** Nothing that every object inherits. */
export function member(object, name) {
    return isObject(object) && Object.hasOwn(object, name) ? object[name] : undefined;
}

/** Applies a merge patch, and changes the target: ten thousand members are not copied for one of them. */
export function applyPatch(target, patch) {
    if (!isObject(patch)) return patch;
    const patched = isObject(target) ? target : {};
    for (const name of Object.keys(patch)) {
        if (patch[name] === null) delete patched[name];
        else setMember(patched, name, applyPatch(member(patched, name), patch[name]));
    }
    return patched;
}

/** Assigning `__proto__` would not create a member. */
function setMember(object, name, value) {
    if (name !== "__proto__") object[name] = value;
    else Object.defineProperty(object, name, { value, configurable: true, enumerable: true, writable: true });
}

/** The merge patch that turns one value into another; `undefined` if they are equal. */
export function difference(from, to) {
    if (!isObject(from) || !isObject(to)) return isEqual(from, to) ? undefined : to;
    const patch = {};
    for (const name of Object.keys(from)) if (!Object.hasOwn(to, name)) setMember(patch, name, null);
    for (const name of Object.keys(to)) {
        const part = difference(member(from, name), to[name]);
        if (part !== undefined) setMember(patch, name, part);
    }
    return Object.keys(patch).length === 0 ? undefined : patch;
}

/** Whether two JSON values are the same, whatever the order of their members. */
export function isEqual(one, other) {
    if (one === other) return true;
    if (Array.isArray(one) && Array.isArray(other)) {
        return one.length === other.length && one.every((value, index) => isEqual(value, other[index]));
    }
    if (!isObject(one) || !isObject(other)) return false;
    const names = Object.keys(one);
    return names.length === Object.keys(other).length
        && names.every((name) => Object.hasOwn(other, name) && isEqual(one[name], other[name]));
}
