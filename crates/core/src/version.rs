//! The library and the extension in a database are of two versions: what mends that.

/// Major, minor, patch.
type Numbers = [u64; 3];

fn numbers(version: &str) -> Option<Numbers> {
    let mut parts = version.split('.').map(|part| part.parse().ok());
    let numbers = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(numbers)
}

/// What to do where the library is of the one version and the extension of the other, for people.
#[must_use]
pub fn advice(library: &str, extension: &str) -> String {
    let update = "Run ALTER EXTENSION webhooks UPDATE in this database.";
    let install = format!("Install version {extension} of the library, and restart the server.");
    match (numbers(library), numbers(extension)) {
        (Some(library), Some(extension)) if library > extension => update.to_owned(),
        (Some(_), Some(_)) => install,
        _ => format!("{update} Or: {install}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_extension_is_updated() {
        for (library, extension) in [
            ("0.2.0", "0.1.0"),
            ("0.10.0", "0.9.9"),
            ("1.0.0", "0.99.99"),
        ] {
            assert_eq!(
                advice(library, extension),
                "Run ALTER EXTENSION webhooks UPDATE in this database."
            );
        }
    }

    #[test]
    fn an_older_library_is_replaced() {
        for (library, extension) in [("0.1.0", "0.2.0"), ("0.9.9", "0.10.0")] {
            assert_eq!(
                advice(library, extension),
                format!("Install version {extension} of the library, and restart the server.")
            );
        }
    }

    #[test]
    fn where_neither_can_be_told_both_are_named() {
        for odd in ["", "1", "1.2", "1.2.3.4", "0.2.0-rc1", "-1.0.0"] {
            let advice = advice("0.2.0", odd);
            assert!(
                advice.contains("UPDATE") && advice.contains("Install"),
                "{advice}"
            );
        }
    }
}
