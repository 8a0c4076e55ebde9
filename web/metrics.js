/** The metrics of the service, in the text format of Prometheus. */
export class Metrics {
    #samples = new Map();

    constructor(text) {
        for (const line of text.split("\n")) {
            const found = /^([a-z_]+)(?:\{(.*)\})? (\S+)$/.exec(line);
            if (found === null) continue;
            const [, name, labels = "", value] = found;
            if (!this.#samples.has(name)) this.#samples.set(name, []);
            this.#samples.get(name).push({ labels: labelsOf(labels), value: Number(value) });
        }
    }

    value(name) {
        return this.all(name).reduce((sum, { value }) => sum + value, 0);
    }

    all(name) {
        return this.#samples.get(`duality_${name}`) ?? [];
    }
}

function labelsOf(text) {
    return Object.fromEntries([...text.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, name, value]) => [name, value]));
}
