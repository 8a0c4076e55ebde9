// Loaded before a program of the documents: what it prints, and that a request failed, is reported to the test; and what
// the documents call localhost:3000 is where the test's service is.

const request = globalThis.fetch;

globalThis.fetch = async (resource, options) => {
    const url = String(resource?.url ?? resource).replace("http://localhost:3000", process.env.DUALITY_AT);
    try {
        return await request(url, options);
    } catch (error) {
        process.send({ outage: "connection refused" });
        throw error;
    }
};

console.log = (...values) => process.send({ shown: values.at(-1) });
