//! Canonical JSON against the judge it is made for: a real JavaScript engine.
//!
//! A thousand JSON texts go through one node process, a line each. What node gives back from
//! `JSON.stringify(JSON.parse(text))` must be what this crate writes.
#![allow(clippy::unwrap_used, clippy::panic)]

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use std::io::Write;
use std::process::{Command, Stdio};
use webhooks_core::json::{canonicalize, write_f64};

const SCRIPT: &str = r#"
    const lines = require("fs").readFileSync(0, "utf8").split("\n");
    lines.pop();
    process.stdout.write(lines.map((line) => JSON.stringify(JSON.parse(line)) + "\n").join(""));
"#;
const CASES: usize = 1_000;

/// What node makes of each text.
fn node(texts: &[String]) -> Vec<String> {
    let spawned = Command::new("node")
        .args(["-e", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = spawned
        .unwrap_or_else(|error| panic!("node is needed, scripts/setup installs it: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = texts
        .iter()
        .map(|text| format!("{text}\n"))
        .collect::<String>();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success());
    let answers: Vec<String> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    assert_eq!(answers.len(), texts.len());
    answers
}

fn canonical(text: &str) -> String {
    let mut out = String::new();
    canonicalize(text, &mut out).unwrap_or_else(|error| panic!("{error}: {text}"));
    out
}

/// Numbers that are the shortest decimal of their double, in many spellings.
fn faithful_number() -> BoxedStrategy<String> {
    const FIXED: &[&str] = &[
        "1.0",
        "1e2",
        "1E-7",
        "123456789012345680000",
        "5e-324",
        "0.1",
        "-0",
        "-0.0",
        "1e21",
        "1e-6",
        "1E+20",
        "0e9",
        "100.00",
        "1.7976931348623157e308",
        "9007199254740991",
        "0.000001",
        "-1e-7",
        "4294967296",
        "2.50e1",
    ];
    prop_oneof![
        prop::sample::select(FIXED).prop_map(str::to_owned),
        any::<i32>().prop_map(|number| number.to_string()),
        (any::<i32>(), 0u32..20).prop_map(|(number, exponent)| format!("{number}.0E-{exponent}")),
        double(f64::MAX).prop_map(|number| format!("{number:e}")),
        double(1e30).prop_map(|number| format!("{number}")),
    ]
    .boxed()
}

/// A double that Rust writes with the digits that JavaScript uses: of two shortest decimals that are
/// equally near, JavaScript takes the even one and Rust does not.
fn double(largest: f64) -> impl Strategy<Value = f64> {
    let digits = |text: &str| {
        let mantissa = text
            .split('e')
            .next()
            .unwrap_or_default()
            .replace(['.', '-'], "");
        mantissa.trim_matches('0').to_owned()
    };
    any::<u64>()
        .prop_map(f64::from_bits)
        .prop_filter("spelled alike", move |&number| {
            let mut javascript = String::new();
            write_f64(number, &mut javascript);
            number.abs() <= largest && digits(&format!("{number:e}")) == digits(&javascript)
        })
}

/// Any number, most of which JavaScript would change.
fn any_number() -> BoxedStrategy<String> {
    prop_oneof![
        "-?(0|[1-9][0-9]{0,25})(\\.[0-9]{1,25})?",
        "-?[1-9](\\.[0-9]{1,5})?[eE][+-]?[0-9]{1,3}",
        faithful_number()
    ]
    .boxed()
}

fn string() -> BoxedStrategy<String> {
    let piece = prop_oneof![
        "[a-z ]{1,6}",
        any::<char>()
            .prop_filter("no U+0000", |&c| c != '\0')
            .prop_map(|c| {
                let quoted = serde_json::to_string(&c).unwrap();
                quoted[1..quoted.len() - 1].to_owned()
            }),
        prop::sample::select(
            &[
                "\\\"", "\\\\", "\\/", "\\b", "\\f", "\\n", "\\r", "\\t", "\u{7f}", "\u{2028}",
                "\u{2029}", "😀", "é"
            ][..]
        )
        .prop_map(str::to_owned),
        (1u32..0xd800).prop_map(|code| format!("\\u{code:04x}")),
        (0xe000u32..0x1_0000).prop_map(|code| format!("\\u{code:04X}")),
        (0xd800u32..0xdc00, 0xdc00u32..0xe000)
            .prop_map(|(high, low)| format!("\\u{high:04X}\\u{low:04x}")),
    ];
    prop::collection::vec(piece, 0..6)
        .prop_map(|pieces| format!("\"{}\"", pieces.concat()))
        .boxed()
}

fn key() -> BoxedStrategy<String> {
    const FIXED: &[&str] = &[
        "__proto__",
        "constructor",
        "toString",
        "0",
        "1",
        "01",
        "-1",
        "1.0",
        "1e3",
        "10",
        "9",
        "4294967294",
        "4294967295",
        "4294967296",
        "99999999999",
        "\\u0031",
        "a",
        "\\u0061",
        "b",
        "",
        "length",
        "$serde_json::private::Number",
        "$serde_json::private::RawValue",
    ];
    prop_oneof![
        4 => prop::sample::select(FIXED).prop_map(|key| format!("\"{key}\"")),
        2 => "[0-9]{1,10}".prop_map(|key| format!("\"{key}\"")),
        1 => string(),
    ]
    .boxed()
}

fn json(number: BoxedStrategy<String>) -> BoxedStrategy<String> {
    let leaf = prop_oneof![
        prop::sample::select(&["null", "true", "false"][..]).prop_map(str::to_owned),
        number,
        string(),
    ];
    let space = || prop::sample::select(&["", " ", "\t \r"][..]);
    leaf.prop_recursive(4, 64, 8, move |inner| {
        prop_oneof![
            (prop::collection::vec(inner.clone(), 0..6), space()).prop_map(
                |(items, space)| format!(
                    "[{space}{}{space}]",
                    items.join(&format!("{space},{space}"))
                )
            ),
            (prop::collection::vec((key(), inner), 0..24), space()).prop_map(|(members, space)| {
                let members: Vec<String> = members
                    .iter()
                    .map(|(key, value)| format!("{key}{space}:{space}{value}"))
                    .collect();
                format!("{{{space}{}{space}}}", members.join(&format!(",{space}")))
            }),
        ]
    })
    .boxed()
}

fn sample(strategy: &BoxedStrategy<String>) -> Vec<String> {
    let mut runner = TestRunner::default();
    (0..CASES)
        .map(|_| strategy.new_tree(&mut runner).unwrap().current())
        .collect()
}

#[test]
fn canonical_text_is_what_node_writes() {
    let texts = sample(&json(faithful_number()));
    let answers = node(&texts);
    for (text, answer) in texts.iter().zip(answers) {
        assert_eq!(canonical(text), answer, "{text}");
    }
}

#[test]
fn node_gives_canonical_text_back() {
    // With numbers that are exempt, node may change those and nothing else.
    let texts: Vec<String> = sample(&json(faithful_number()))
        .iter()
        .map(|text| canonical(text))
        .collect();
    let answers = node(&texts);
    assert_eq!(texts, answers);
}

#[test]
fn only_numbers_that_node_would_change_are_kept() {
    let texts = sample(&any_number());
    let answers = node(&texts);
    for (text, answer) in texts.iter().zip(answers) {
        let ours = canonical(text);
        if ours != answer {
            assert_eq!(&ours, text);
            assert!(
                answer == "null" || !same_decimal(text, &answer),
                "{text} is {answer}"
            );
        } else {
            assert!(same_decimal(text, &answer), "{text} became {answer}");
        }
    }
}

/// Compares decimals by writing both out in full: another way than the crate's own.
fn same_decimal(a: &str, b: &str) -> bool {
    fn in_full(text: &str) -> (bool, String, String) {
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let exponent: i32 = exponent.parse().unwrap();
        let digits = mantissa.trim_start_matches('-');
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let zeros = "0".repeat(1_100);
        let all = format!("{zeros}{whole}{fraction}{zeros}");
        let point =
            usize::try_from(i32::try_from(zeros.len() + whole.len()).unwrap() + exponent).unwrap();
        let (whole, fraction) = all.split_at(point);
        let (whole, fraction) = (
            whole.trim_start_matches('0').to_owned(),
            fraction.trim_end_matches('0').to_owned(),
        );
        let zero = whole.is_empty() && fraction.is_empty();
        (text.starts_with('-') && !zero, whole, fraction)
    }
    in_full(a) == in_full(b)
}
