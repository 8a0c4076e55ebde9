// The views of the page, with something in each of them to look at.

/**
 * Fills a service: persons, carts with a history, and a refusal.
 * @returns {Promise<string>} the key of a cart
 */
export async function furnish(service) {
    for (const name of ["Ann", "Bob", "Cid", "Dora"]) await service.write("POST", "/persons", { name, city: "Rome" });
    await service.write("PATCH", "/persons/2", { city: "Oslo" });
    await service.write("DELETE", "/persons/3");
    const cart = (await service.write("POST", "/carts")).headers.get("Location");
    for (const item of ["apple", "pear", "a rather long name of an item that somebody wants to buy"]) {
        await service.write("POST", `${cart}/add-item`, { item });
    }
    return cart.split("/").at(-1);
}

/** The hashes of all views, for a service that `furnish` has filled. */
export async function viewsOf(service, cart) {
    const { collections } = await service.get("/");
    const ofCollections = collections.flatMap(({ name, events }) => [`#/${name}`, `#/feed${events}`]);
    return [...ofCollections, "#/persons/1", `#/carts/${cart}`, "#/feed", "#/journal", "#/projections", "#/service"];
}

/** Goes to a view as a click on a link does, and waits until the page shows it. */
export async function goTo(page, hash) {
    await page.locator("h1:not(:empty)").waitFor();
    const isThere = await page.evaluate((hash) => {
        const isThere = location.hash === hash;
        if (!isThere) document.getElementById("content").firstElementChild.dataset.isOld = "";
        location.hash = hash;
        return isThere;
    }, hash);
    if (isThere) return;
    await page.waitForFunction(() => !("isOld" in document.getElementById("content").firstElementChild.dataset));
    await page.waitForFunction(() => !document.getElementById("content").innerText.includes("Loading …"));
    const text = await page.locator("body").innerText();
    if (/\[object |\bundefined\b|\bNaN\b/.test(text)) throw new Error(`${hash} shows ${text}`);
    if ((await page.title()).endsWith("Nothing here")) throw new Error(`there is no view ${hash}`);
}

/** The state that the page has, by its own button for it. The context needs the permissions of the clipboard. */
export async function shownState(page) {
    await page.getByRole("region", { name: "State", exact: true }).getByRole("button", { name: "Copy JSON" }).click();
    return JSON.parse(await page.evaluate(() => navigator.clipboard.readText()));
}
