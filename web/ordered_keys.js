/** The keys of a collection in the order of the service: numbers by value, then everything else. */
export class OrderedKeys {
    /** @type {string[]} */
    #keys = [];

    get all() {
        return this.#keys;
    }

    replace(keys) {
        this.#keys = [...keys].sort(compareKeys);
    }

    add(key) {
        const place = this.#place(key);
        if (this.#keys[place] !== key) this.#keys.splice(place, 0, key);
    }

    remove(key) {
        const place = this.#place(key);
        if (this.#keys[place] === key) this.#keys.splice(place, 1);
    }

    indexOf(key) {
        const place = this.#place(key);
        return this.#keys[place] === key ? place : -1;
    }

    /** Where the key is, or would be. */
    #place(key) {
        let low = 0;
        let high = this.#keys.length;
        while (low < high) {
            const middle = (low + high) >> 1;
            if (compareKeys(this.#keys[middle], key) < 0) low = middle + 1;
            else high = middle;
        }
        return low;
    }
}

const NUMBER = /^(0|[1-9]\d*)$/;

function compareKeys(one, other) {
    const isNumber = NUMBER.test(one);
    if (isNumber !== NUMBER.test(other)) return isNumber ? -1 : 1;
    if (isNumber && one.length !== other.length) return one.length - other.length;
    if (one === other) return 0;
    return one < other ? -1 : 1;
}
