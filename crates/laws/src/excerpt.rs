//! Excerpts of answers: text that Postgres can store, no longer than asked for.

use webhooks_core::excerpt;

pub(crate) fn law(bytes: &[u8]) {
    let (first, answer) = bytes.split_at(bytes.len().min(1));
    let most = usize::from(first.first().copied().unwrap_or(0));
    for most in [most, 0, 1, 1024] {
        let text = excerpt::of(answer, most);
        assert!(text.len() <= most && !text.contains('\0'), "{text:?}");
        if let Ok(whole) = std::str::from_utf8(answer) {
            let begins: String = text.chars().filter(|&char| char != '\0').collect();
            let whole = whole.replace('\0', "");
            assert!(whole.starts_with(&begins), "{text:?}");
            assert!(answer.len() > most || whole == text, "{text:?}");
        }
    }
}
