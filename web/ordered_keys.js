/** Keys in the order of the service: numbers by value, then everything else. */
export class OrderedKeys {
    /** @type {string[]} */
    all = [];

    replace(keys) {
        this.all = keys.sort(compare);
    }

    add(key) {
        const place = this.#place(key);
        if (this.all[place] !== key) this.all.splice(place, 0, key);
    }

    remove(key) {
        const place = this.indexOf(key);
        if (place >= 0) this.all.splice(place, 1);
    }

    indexOf(key) {
        const place = this.#place(key);
        return this.all[place] === key ? place : -1;
    }

    #place(key) {
        let low = 0;
        let high = this.all.length;
        while (low < high) {
            const middle = (low + high) >> 1;
            if (compare(this.all[middle], key) < 0) low = middle + 1;
            else high = middle;
        }
        return low;
    }
}

const NUMBER = /^(0|[1-9]\d*)$/;

function compare(one, other) {
    const isNumber = NUMBER.test(one);
    if (isNumber !== NUMBER.test(other)) return isNumber ? -1 : 1;
    if (isNumber && one.length !== other.length) return one.length - other.length;
    return one < other ? -1 : Number(one > other);
}
