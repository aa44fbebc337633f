//! Every input that is kept for the fuzz targets obeys the law of its target.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::Path;
use webhooks_laws::LAWS;

fn fuzz() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

#[test]
fn what_was_found_before_obeys() {
    for (name, law) in LAWS {
        let mut inputs = 0;
        for input in std::fs::read_dir(fuzz().join("corpus").join(name)).unwrap() {
            let path = input.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            let obeyed = std::panic::catch_unwind(|| law(&bytes));
            assert!(obeyed.is_ok(), "{}", path.display());
            inputs += 1;
        }
        assert!(inputs > 0, "{name} has no inputs");
    }
}

#[test]
fn each_law_is_a_target() {
    let targets = std::fs::read_dir(fuzz().join("fuzz_targets")).unwrap();
    let targets: BTreeSet<String> = targets
        .map(|it| {
            it.unwrap()
                .path()
                .file_stem()
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    assert_eq!(targets, LAWS.map(|it| it.0.to_owned()).into());
}
