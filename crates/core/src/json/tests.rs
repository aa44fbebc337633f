#![allow(clippy::unwrap_used)]
use super::*;
use proptest::prelude::*;

fn canonical(text: &str) -> String {
    let mut out = String::new();
    canonicalize(text, &mut out).unwrap();
    out
}

fn refused(text: &str) -> JsonError {
    let mut out = String::from("kept");
    let error = canonicalize(text, &mut out).unwrap_err();
    assert_eq!(out, "kept");
    error
}

#[test]
fn white_space_goes_and_words_stay() {
    assert_eq!(
        canonical(" [ true , false\t,null,\r\n{ } , [ ] ] "),
        "[true,false,null,{},[]]"
    );
    assert_eq!(canonical("\"a\""), "\"a\"");
}

#[test]
fn numbers_are_spelled_as_javascript_spells_them() {
    // What JSON.stringify(JSON.parse(text)) gives in node.
    for (text, spelled) in [
        ("0", "0"),
        ("-0", "0"),
        ("-0.0", "0"),
        ("0e9999999999999999999999", "0"),
        ("1.0", "1"),
        ("100.00", "100"),
        ("1e2", "100"),
        ("1E+2", "100"),
        ("1e+20", "100000000000000000000"),
        ("1e21", "1e+21"),
        ("1e-6", "0.000001"),
        ("1E-7", "1e-7"),
        ("0.1", "0.1"),
        ("-1.50", "-1.5"),
        ("123456789012345", "123456789012345"),
        ("999999999999999", "999999999999999"),
        ("9007199254740991", "9007199254740991"),
        ("123456789012345680000", "123456789012345680000"),
        ("5e-324", "5e-324"),
        ("1.7976931348623157e308", "1.7976931348623157e+308"),
        ("0.00001e5", "1"),
        ("1000000000000000128", "1000000000000000128"),
        ("2005685099994159.20", "2005685099994159.2"),
    ] {
        let mut out = String::new();
        write_number(text, &mut out);
        assert_eq!(out, spelled, "{text}");
        assert_eq!(canonical(text), spelled);
    }
}

#[test]
fn numbers_that_javascript_would_change_are_kept() {
    for text in [
        "9007199254740993",
        "12345678901234567890.50",
        "0.10000000000000000555",
        "1e400",
        "-1e400",
        "1e-400",
        "1E-400",
        "1e99999999999999999999",
        "4.9e-324",
        "1000000000000000129",
        // Of two shortest decimals equally near the double, JavaScript takes the even one: .2.
        "2005685099994159.3",
        "2005685099994159.25",
    ] {
        assert_eq!(canonical(text), text);
    }
}

#[test]
fn what_is_no_number_becomes_a_string() {
    for text in [
        "NaN",
        "Infinity",
        "-Infinity",
        "inf",
        "",
        "-",
        "01",
        "1.",
        ".5",
        "1e",
        "+1",
        "1 ",
        "0x1",
    ] {
        let mut out = String::new();
        write_number(text, &mut out);
        assert_eq!(out, format!("\"{text}\""));
    }
}

#[test]
fn doubles_are_spelled_as_javascript_spells_them() {
    for (number, spelled) in [
        (1.0, "1"),
        (-0.0, "0"),
        (1e21, "1e+21"),
        (0.1 + 0.2, "0.30000000000000004"),
    ] {
        let mut out = String::new();
        write_f64(number, &mut out);
        assert_eq!(out, spelled);
    }
}

#[test]
fn equal_values_are_equal_however_spelled() {
    for (a, b) in [
        ("1", "1.0"),
        ("1", "10e-1"),
        ("-0", "0"),
        ("1e400", "10e399"),
        ("0.001", "1E-3"),
        ("120", "1.2e2"),
        ("0", "0e99999999999999999999"),
        ("-12.5", "-0.0125e3"),
        ("12345678901234567890.5", "12345678901234567890.50"),
    ] {
        assert_eq!(value_of(a), value_of(b), "{a} {b}");
    }
    for (a, b) in [
        ("1", "-1"),
        ("1", "10"),
        ("12", "1"),
        ("0.1", "0.10000000000000000001"),
        ("0", "1"),
        ("0", "1e-400"),
    ] {
        assert_ne!(value_of(a), value_of(b), "{a} {b}");
    }
}

#[test]
fn escapes_are_those_of_json_stringify() {
    assert_eq!(
        canonical(r#""\u0041\/\u0022\\\b\t\n\f\r""#),
        r#""A/\"\\\b\t\n\f\r""#
    );
    assert_eq!(
        canonical(r#""\u0008\u0009\u000A\u000b\u001F""#),
        r#""\b\t\n\u000b\u001f""#
    );
    assert_eq!(
        canonical("\"\\u007f\\u2028\\u00e9\\ud83d\\uDE00\""),
        "\"\u{7f}\u{2028}é😀\""
    );
    let mut out = String::new();
    write_string("\u{1f}é\"\u{7f}\\\n😀\0", &mut out);
    assert_eq!(out, "\"\\u001fé\\\"\u{7f}\\\\\\n😀\\u0000\"");
}

#[test]
fn index_like_keys_come_first() {
    assert_eq!(
        canonical(
            r#"{"b":1,"10":2,"9":3,"01":4,"4294967294":5,"4294967295":6,"-1":7,"0":8,"1.0":9}"#
        ),
        r#"{"0":8,"9":3,"10":2,"4294967294":5,"b":1,"01":4,"4294967295":6,"-1":7,"1.0":9}"#
    );
    assert_eq!(canonical(r#"{"\u0031":1,"\u0030":2}"#), r#"{"0":2,"1":1}"#);
}

#[test]
fn the_last_of_equal_keys_wins_where_the_first_stood() {
    assert_eq!(
        canonical(r#"{"a":1,"b":2,"a":{"x":1,"x":2},"c":3,"\u0061":4}"#),
        r#"{"a":4,"b":2,"c":3}"#
    );
    assert_eq!(
        canonical(r#"{"__proto__":1,"__proto__":2}"#),
        r#"{"__proto__":2}"#
    );
    let many: Vec<String> = (0..100).map(|n| format!("\"k{}\":{n}", n % 50)).collect();
    let kept: Vec<String> = (50..100).map(|n| format!("\"k{}\":{n}", n % 50)).collect();
    assert_eq!(
        canonical(&format!("{{{}}}", many.join(","))),
        format!("{{{}}}", kept.join(","))
    );
}

#[test]
fn the_private_key_of_serde_json_is_a_key_like_any_other() {
    let text = r#"{"$serde_json::private::Number":"x"}"#;
    assert_eq!(canonical(text), text);
}

#[test]
fn nul_and_lone_surrogates_are_refused() {
    for text in [
        r#""a\u0000""#,
        r#"{"\u0000":1}"#,
        r#"{"a":["\u0000"],"a":1}"#,
    ] {
        assert_eq!(refused(text), JsonError::Nul);
    }
    for text in [
        r#""\ud800""#,
        r#""\udc00""#,
        r#""\ud800x""#,
        r#""\ud800\n""#,
        r#""\ud800\ud800""#,
        r#""\ud800\u0041""#,
    ] {
        assert_eq!(refused(text), JsonError::LoneSurrogate, "{text}");
    }
}

#[test]
fn depth_is_limited() {
    let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    assert_eq!(canonical(&deep(MAX_DEPTH)), deep(MAX_DEPTH));
    assert_eq!(refused(&deep(MAX_DEPTH + 1)), JsonError::TooDeep);
    assert_eq!(
        refused(&format!("{}1{}", r#"{"a":"#.repeat(101), "}".repeat(101))),
        JsonError::TooDeep
    );
    assert!(matches!(
        refused(&"[".repeat(1_000_000)),
        JsonError::Syntax(_)
    ));
    assert_eq!(
        canonical(&format!("[{}]", vec!["[]"; 200].join(","))).len(),
        601
    );
}

#[test]
fn what_is_not_json_is_refused() {
    for text in [
        "",
        " ",
        "{",
        "[1,]",
        "{\"a\":1,}",
        "01",
        "1.",
        "'a'",
        "nul",
        "nulll",
        "\"\t\"",
        "\"\\x\"",
        "\"\\u12g4\"",
        "1 2",
        "\u{feff}1",
        "NaN",
    ] {
        assert!(matches!(refused(text), JsonError::Syntax(_)), "{text}");
    }
}

prop_compose! {
    fn spelled_number()(sign in "-?", whole in "0|[1-9][0-9]{0,22}", rest in "(\\.[0-9]{1,22})?([eE][+-]?[0-9]{1,3})?") -> String {
        format!("{sign}{whole}{rest}")
    }
}

proptest! {
    #[test]
    fn numbers_keep_their_value_and_settle(text in spelled_number()) {
        let once = canonical(&text);
        prop_assert_eq!(value_of(&once), value_of(&text));
        prop_assert_eq!(canonical(&once), once);
    }

    #[test]
    fn every_double_is_given_back(bits: u64) {
        let number = f64::from_bits(bits);
        prop_assume!(number.is_finite());
        let mut out = String::new();
        write_f64(number, &mut out);
        // Not Rust's own {:e}: of two shortest decimals that are equally near it takes the odd one.
        let (digits, exponent) = out.split_once('e').unwrap_or((&out, "0"));
        let respelled = if digits.contains('.') { format!("{digits}00E{exponent}") } else { format!("{digits}.0e{exponent}") };
        let mut again = String::new();
        write_number(&respelled, &mut again);
        prop_assert_eq!(&out, &again);
        prop_assert_eq!(out.parse::<f64>().unwrap(), number);
    }

    #[test]
    fn strings_are_given_back(text in any::<String>()) {
        let mut out = String::new();
        write_string(&text, &mut out);
        prop_assert_eq!(serde_json::from_str::<String>(&out).unwrap(), text);
    }

    #[test]
    fn any_text_is_answered_without_a_panic(text in "[\\[\\]{}\":,\\\\u0-9a-fnlt.eE+ -]{0,40}") {
        let mut out = String::new();
        if canonicalize(&text, &mut out).is_ok() {
            let value = parse(&text).unwrap();
            let mut written = String::new();
            write_value(&value, &mut written);
            // Parsing into a value respells the exponent of a number that is kept.
            if !text.contains(['e', 'E']) {
                prop_assert_eq!(&written, &out);
            }
            prop_assert_eq!(canonical(&out), out);
        } else {
            prop_assert_eq!(out, "");
        }
    }
}

#[test]
fn what_is_pruned_is_null_and_the_rest_stays() {
    let pruned = |text: &str, depth| {
        let mut out = String::from("kept");
        prune(text, depth, &mut out).unwrap();
        out.strip_prefix("kept").unwrap().to_owned()
    };
    let text = r#"{"b":{"c":[1,{"d":"}]\""}],"e":"x"},"a":[],"10":1}"#;
    assert_eq!(pruned(text, 0), "null");
    assert_eq!(pruned(text, 1), r#"{"10":1,"b":null,"a":null}"#);
    assert_eq!(pruned(text, 2), r#"{"10":1,"b":{"c":null,"e":"x"},"a":[]}"#);
    assert_eq!(
        pruned(text, 3),
        r#"{"10":1,"b":{"c":[1,null],"e":"x"},"a":[]}"#
    );
    assert_eq!(pruned(text, 4), canonical(text));
    let deep = format!(
        "{{\"a\":{}1{},\"id\":\"7\"}}",
        "[".repeat(10_000),
        "]".repeat(10_000)
    );
    assert_eq!(pruned(&deep, 1), r#"{"a":null,"id":"7"}"#);
    let most = pruned(&deep, usize::MAX);
    assert_eq!(canonical(&most), most, "no deeper than what may be sent");
    assert!(prune("[\"\\ud800\"]", 5, &mut String::new()).is_err());
}
