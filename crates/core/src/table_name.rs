//! Names of tables and of the objects whose rows they hold: `memories` holds a `memory`.
//!
//! English only, and by rule of thumb: what is made here goes into hints and notices, which a person
//! reads before anything is done with it.

use crate::event_type::valid_object;

/// Words whose plural no rule below gives, in either direction.
const IRREGULAR: [(&str, &str); 24] = [
    ("alias", "aliases"),
    ("analysis", "analyses"),
    ("bonus", "bonuses"),
    ("bus", "buses"),
    ("cache", "caches"),
    ("campus", "campuses"),
    ("canvas", "canvases"),
    ("census", "censuses"),
    ("child", "children"),
    ("cookie", "cookies"),
    ("diagnosis", "diagnoses"),
    ("gas", "gases"),
    ("index", "indices"),
    ("leaf", "leaves"),
    ("lens", "lenses"),
    ("life", "lives"),
    ("man", "men"),
    ("matrix", "matrices"),
    ("movie", "movies"),
    ("person", "people"),
    ("shelf", "shelves"),
    ("shoe", "shoes"),
    ("virus", "viruses"),
    ("woman", "women"),
];
/// Words that are their own plural.
const UNCHANGED: [&str; 9] = [
    "data",
    "equipment",
    "feedback",
    "information",
    "media",
    "metadata",
    "news",
    "series",
    "species",
];

/// The plural of an object's name: `order` gives `orders`, `memory` gives `memories`. Of several words,
/// as in `order_item`, the last one changes.
#[must_use]
pub fn plural_of(object: &str) -> String {
    let (before, word) = last_word(object);
    if UNCHANGED.contains(&word) {
        return object.to_owned();
    }
    if let Some((_, plural)) = IRREGULAR.iter().find(|(singular, _)| *singular == word) {
        return format!("{before}{plural}");
    }
    if let Some(stem) = word.strip_suffix('y')
        && !stem.is_empty()
        && !stem.ends_with(is_vowel)
    {
        return format!("{before}{stem}ies");
    }
    let hisses = ["s", "x", "z", "ch", "sh"];
    let ending = if hisses.iter().any(|ending| word.ends_with(ending)) {
        "es"
    } else {
        "s"
    };
    format!("{before}{word}{ending}")
}

/// The object that a table of this name holds: `orders` gives `order`, `Order Items` gives `order_item`.
/// `None`: the name makes no object, as judged by [`valid_object`].
#[must_use]
pub fn object_of(table_name: &str) -> Option<String> {
    let mut words = words(table_name)?;
    let last = words.pop()?;
    words.push(singular_of(&last));
    Some(words.join("_")).filter(|object| valid_object(object))
}

/// Whether the words of a table's name hold the object's name, in the singular or the plural:
/// `user_memories` suggests `memory`, `orders` does not.
#[must_use]
pub fn suggests(table_name: &str, object: &str) -> bool {
    let (Some(table), Some(object)) = (words(table_name), words(object)) else {
        return false;
    };
    let Some((last, before)) = object.split_last() else {
        return false;
    };
    let plural = plural_of(last);
    table.windows(object.len()).any(|part| {
        part.split_last().is_some_and(|(word, first)| {
            first == before && (word == last || *word == plural || singular_of(word) == *last)
        })
    })
}

/// The words of a name in lower case, split at underscores, blanks, hyphens and humps. `None`: it has
/// letters beyond ASCII, which no event type can have.
fn words(name: &str) -> Option<Vec<String>> {
    if !name.is_ascii() {
        return None;
    }
    let mut words = vec![String::new()];
    let mut after_small = false;
    for letter in name.chars() {
        let hump = letter.is_ascii_uppercase() && after_small;
        if hump || !letter.is_ascii_alphanumeric() {
            words.push(String::new());
        }
        if letter.is_ascii_alphanumeric()
            && let Some(word) = words.last_mut()
        {
            word.push(letter.to_ascii_lowercase());
        }
        after_small = letter.is_ascii_lowercase() || letter.is_ascii_digit();
    }
    words.retain(|word| !word.is_empty());
    Some(words)
}

/// The singular of one word in lower case; a word that is no plural stays as it is.
fn singular_of(word: &str) -> String {
    if let Some((singular, _)) = IRREGULAR.iter().find(|(_, plural)| *plural == word) {
        return (*singular).to_owned();
    }
    let is_singular = IRREGULAR.iter().any(|(singular, _)| *singular == word);
    if is_singular || UNCHANGED.contains(&word) || word.len() < 3 {
        return word.to_owned();
    }
    // Four letters, as ties and pies, lose their s alone.
    if let Some(stem) = word.strip_suffix("ies").filter(|stem| stem.len() > 1) {
        return format!("{stem}y");
    }
    let hisses = ["sses", "shes", "ches", "xes", "zzes", "oes", "tuses"];
    if hisses.iter().any(|ending| word.ends_with(ending)) && word.len() > 4 {
        return word[..word.len() - 2].to_owned();
    }
    if ["ss", "us", "is"].iter().any(|end| word.ends_with(end)) {
        return word.to_owned();
    }
    word.strip_suffix('s').unwrap_or(word).to_owned()
}

/// The last word of an object's name, and what stands before it.
fn last_word(object: &str) -> (&str, &str) {
    object.split_at(object.rfind('_').map_or(0, |place| place + 1))
}

fn is_vowel(letter: char) -> bool {
    matches!(letter, 'a' | 'e' | 'i' | 'o' | 'u')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const PAIRS: &[(&str, &str)] = &[
        ("memory", "memories"),
        ("order", "orders"),
        ("note", "notes"),
        ("entry", "entries"),
        ("box", "boxes"),
        ("address", "addresses"),
        ("status", "statuses"),
        ("branch", "branches"),
        ("dish", "dishes"),
        ("key", "keys"),
        ("day", "days"),
        ("person", "people"),
        ("child", "children"),
        ("movie", "movies"),
        ("cache", "caches"),
        ("case", "cases"),
        ("database", "databases"),
        ("purchase", "purchases"),
        ("house", "houses"),
        ("archive", "archives"),
        ("alias", "aliases"),
        ("series", "series"),
        ("user", "users"),
        ("tie", "ties"),
        ("order_item", "order_items"),
        ("user_memory", "user_memories"),
    ];

    #[test]
    fn plural_and_singular_are_each_others_reverse() {
        for (object, table) in PAIRS {
            assert_eq!(plural_of(object), *table);
            assert_eq!(object_of(table).as_deref(), Some(*object));
            assert_eq!(object_of(object).as_deref(), Some(*object));
        }
    }

    #[test]
    fn an_object_is_written_as_event_types_are() {
        for (table, object) in [
            ("Order Items", "order_item"),
            ("OrderItems", "order_item"),
            ("order-items", "order_item"),
            ("Memory", "memory"),
            ("status", "status"),
            ("MEMORIES", "memory"),
            ("t2_notes", "t2_note"),
            ("orders_2024", "orders_2024"),
        ] {
            assert_eq!(object_of(table).as_deref(), Some(object), "{table}");
        }
        for table in ["", "  ", "_", "2024", "2nd_orders", "größen", "заказы"] {
            assert_eq!(object_of(table), None, "{table}");
        }
        assert_eq!(object_of(&"a".repeat(93)), None);
    }

    #[test]
    fn a_tables_words_suggest_the_object() {
        for table in [
            "memory",
            "memories",
            "Memory",
            "memory_entries",
            "user_memories",
            "UserMemories",
            "user memories",
            "memories_2024",
        ] {
            assert!(suggests(table, "memory"), "{table}");
        }
        for table in ["orders", "memorial", "notes", "", "größen"] {
            assert!(!suggests(table, "memory"), "{table}");
        }
        assert!(suggests("shop_order_items", "order_item"));
        assert!(!suggests("order_lines", "order_item") && !suggests("items", "order_item"));
        assert!(!suggests("anything", ""));
    }

    proptest! {
        #[test]
        fn an_object_is_valid_and_suggested_by_its_table(table in "\\PC{0,24}") {
            if let Some(object) = object_of(&table) {
                prop_assert!(valid_object(&object));
                prop_assert!(suggests(&table, &object), "{} {}", table, object);
            }
        }

        #[test]
        fn the_plural_of_an_object_suggests_it(object in "[a-z]{1,12}(_[a-z]{1,12})?") {
            prop_assert!(suggests(&plural_of(&object), &object));
        }
    }
}
