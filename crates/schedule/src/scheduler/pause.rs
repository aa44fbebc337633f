//! Pauses for which endpoints ask: 429 or 503 with `Retry-After`.
//!
//! Until then nothing starts but what users want at once. Afterwards those that were refused go first, and
//! [one at a time](SlowStart).

use super::*;

/// By how much longer than an endpoint asks for its pauses are, once one was too short.
const CUT_OFF_MS: i64 = 1_000;

impl Scheduler {
    /// An endpoint has asked to be left alone until then. What is under way goes on, and may make it longer.
    pub(super) fn begin_pause(&mut self, index: usize, until_ms: i64) {
        let state = &mut self.endpoints[index];
        state.slow_start = Some(SlowStart::default());
        let until_ms = until_ms.saturating_add(if state.cuts_off { CUT_OFF_MS } else { 0 });
        let known = state.definition.paused_until_ms;
        if known.is_some_and(|known| known >= until_ms) {
            return;
        }
        state.definition.paused_until_ms = Some(until_ms);
        self.await_end(index);
        self.note_pause(index);
        // What waits for it is to take no room from others.
        self.give_back(index);
    }

    /// Has [`Scheduler::tick`] end the pause of an endpoint.
    pub(super) fn await_end(&mut self, index: usize) {
        let definition = &self.endpoints[index].definition;
        if let Some(until_ms) = definition.paused_until_ms {
            self.pauses.push(Reverse((until_ms, index, definition.id)));
        }
    }

    /// Has the tables told how long an endpoint is paused, or that it is no longer.
    fn note_pause(&mut self, index: usize) {
        let state = &mut self.endpoints[index];
        state.delta.pause = Some(Pause {
            until_ms: state.definition.paused_until_ms,
            url: state.definition.url.clone(),
        });
        self.pause_is_new = true;
        self.count(index);
    }

    /// Ends pauses whose time is over.
    pub(super) fn end_pauses(&mut self, now: Now) {
        while let Some(&Reverse((until_ms, index, webhook))) = self.pauses.peek() {
            if until_ms > now.unix_ms {
                break;
            }
            self.pauses.pop();
            let state = self.endpoints.get_mut(index);
            let Some(state) = state.filter(|it| it.definition.id == webhook) else {
                continue;
            };
            if state.definition.paused_until_ms != Some(until_ms) {
                continue;
            }
            state.definition.paused_until_ms = None;
            state.slow_start = Some(SlowStart::default());
            state.begin_era();
            self.feed(index);
            self.list(index);
        }
    }

    /// A definition has come in place of another. Its pause is that of the one before, unless it has another URL or was
    /// switched on again.
    pub(super) fn follow_pause(&mut self, index: usize, before: &Definition) {
        let state = &mut self.endpoints[index];
        if state.definition.moves_from(before) {
            state.slow_start = None;
            state.cuts_off = false;
            state.begin_era();
            state.place_era = state.era;
        }
        let paused_until_ms = state.definition.paused_until_ms;
        if paused_until_ms == before.paused_until_ms {
            return;
        }
        if paused_until_ms.is_some() {
            self.await_end(index);
        } else {
            self.note_pause(index);
            self.feed(index);
        }
    }

    /// Whether the tables are to be told of a pause, and soon: a crash would forget it.
    #[must_use]
    pub fn has_new_pause(&self) -> bool {
        self.pause_is_new
    }
}
