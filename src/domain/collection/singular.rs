//! The singular of an English plural, for the default name of one aggregate.

use std::borrow::Cow;

/// Endings of plurals, and what the singular has instead. The first one that fits counts, so exceptions come first.
const ENDINGS: [(&str, &str); 36] = [
    // The same in both.
    ("news", "news"),
    ("series", "series"),
    ("species", "species"),
    ("menus", "menu"),
    // No plural, or a foreign one that is not guessed.
    ("ss", "ss"),
    ("us", "us"),
    ("is", "is"),
    // Without a rule.
    ("people", "person"),
    ("children", "child"),
    ("women", "woman"),
    ("men", "man"),
    ("mice", "mouse"),
    ("indices", "index"),
    ("vertices", "vertex"),
    ("matrices", "matrix"),
    ("analyses", "analysis"),
    // movies, cookies: few, but of those that services have.
    ("movies", "movie"),
    ("cookies", "cookie"),
    ("ies", "y"),
    // halves, shelves, wolves, leaves, knives, wives; but sleeves, valves, curves, drives.
    ("valves", "valve"),
    ("lves", "lf"),
    ("leaves", "leaf"),
    ("knives", "knife"),
    ("wives", "wife"),
    // boxes, addresses, dishes, branches, quizzes; but caches.
    ("caches", "cache"),
    ("xes", "x"),
    ("sses", "ss"),
    ("shes", "sh"),
    ("ches", "ch"),
    ("quizzes", "quiz"),
    // statuses, buses; but houses, causes: a vowel before the u.
    ("ouses", "ouse"),
    ("auses", "ause"),
    ("uses", "us"),
    // potatoes, heroes; but shoes.
    ("toes", "to"),
    ("heroes", "hero"),
    ("s", ""),
];

/// `persons` → `person`, `companies` → `company`, `boxes` → `box`. A name without a known ending is its own singular.
pub(super) fn singular(plural: &'static str) -> Cow<'static, str> {
    // What is one letter long would have no name.
    let fits = |ending: &str| plural.ends_with(ending) && plural.len() > 1;
    match ENDINGS.into_iter().find(|(ending, _)| fits(ending)) {
        Some((plural_ending, ending)) => {
            let stem = &plural[..plural.len() - plural_ending.len()];
            if ending.is_empty() { stem.into() } else { format!("{stem}{ending}").into() }
        }
        None => plural.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_singular_of_common_plurals_is_right() {
        let table = "
            persons person, locations location, carts cart, accounts account, todos todo, orders order, users user
            companies company, categories category, entries entry, policies policy, cities city, inventories inventory
            movies movie, cookies cookie, properties property, counties county
            boxes box, indexes index, taxes tax, addresses address, classes class, processes process, dishes dish
            branches branch, batches batch, searches search, matches match, caches cache, quizzes quiz
            statuses status, buses bus, viruses virus, campuses campus, houses house, warehouses warehouse, causes cause
            cases case, purchases purchase, databases database, courses course, invoices invoice, services service
            prizes prize, sizes size, messages message, pages page, vehicles vehicle, devices device, prices price
            shelves shelf, wolves wolf, leaves leaf, knives knife, valves valve, curves curve, drives drive
            potatoes potato, photos photo, shoes shoe, heroes hero, menus menu
            news news, series series, species species, access access, status status, analysis analysis, sheep sheep
            people person, children child, women woman, men man, mice mouse, indices index, analyses analysis
            order-items order-item, sub-categories sub-category, s s, x x";
        for pair in table.split([',', '\n']).map(str::trim).filter(|pair| !pair.is_empty()) {
            let (plural, expected) = pair.split_once(' ').unwrap();
            let plural: &'static str = plural.to_owned().leak();
            assert_eq!(singular(plural), expected, "of {plural}");
        }
        assert_eq!(singular(""), "");
    }
}
