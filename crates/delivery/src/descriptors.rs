//! File descriptors, of which each connection takes one. Called on the main thread.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises this process's limit of open files as far as the system lets it, but not beyond `wanted`; returns what it is
/// then.
#[must_use]
pub fn raise_descriptors(wanted: u64) -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return 0;
    };
    let most = hard.min(wanted);
    if soft < most && setrlimit(Resource::RLIMIT_NOFILE, most, hard).is_ok() {
        return most;
    }
    soft
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_and_never_lowered() {
        let before = raise_descriptors(0);
        assert!(before > 0);
        let after = raise_descriptors(before + 1);
        assert!(after == before || after == before + 1);
        assert_eq!(raise_descriptors(0), after);
    }
}
