//! Pauses for which endpoints ask: 429 or 503 with `Retry-After`.
//!
//! Until then nothing starts but what users want at once. Afterwards those that were refused go first, and
//! [one at a time](SlowStart).

use super::attempts::later;
use super::*;
use std::time::Duration;
use webhooks_core::time::RETRY_AFTER_MAX;

/// By how much longer than an endpoint asks for its pauses are, once one was too short.
const CUT_OFF: Duration = Duration::from_secs(1);
/// A pause that lasts longer from now on was begun under a clock that was ahead. The view `webhooks.paused` leaves it out, too.
const LONGEST_MS: i64 = 86_400_000 + CLOCK_MARGIN_MS;

/// A pause for which an endpoint asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// Unix milliseconds.
    pub(super) from_ms: i64,
    pub(super) length: Duration,
}

impl Scheduler {
    /// The endpoint says how it stands with load: when it is to be left alone, or that it takes requests.
    pub(super) fn heed(
        &mut self,
        index: usize,
        era: u64,
        status: Option<u16>,
        pause: Option<Asked>,
        limits: &Limits,
    ) {
        let Some(state) = self.endpoints.get_mut(index) else {
            return;
        };
        // What the URL before has answered says nothing.
        if state.gone || era < state.place_era {
            return;
        }
        let is_new = era == state.era;
        if let Some(asked) = pause {
            let probed = state.slow_start.is_some_and(SlowStart::is_probing);
            state.was_too_short |= is_new && probed && !state.definition.is_paused();
            state.cuts_off |= state.was_too_short;
            self.begin_pause(index, asked);
        } else if is_new && status.is_some_and(|it| !verdict::is_refusal(it)) {
            state.was_too_short = false;
            state.slow_start = state.slow_start.and_then(|it| it.accept(limits.concurrent));
        }
    }

    /// An endpoint has asked to be left alone. What is under way goes on, and may make it longer.
    fn begin_pause(&mut self, index: usize, asked: Asked) {
        let state = &mut self.endpoints[index];
        state.slow_start = Some(SlowStart::default());
        let more = if state.cuts_off {
            CUT_OFF
        } else {
            Duration::ZERO
        };
        let length = asked.length.saturating_add(more).min(RETRY_AFTER_MAX);
        let until_ms = later(asked.from_ms, length);
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

    /// Has [`Scheduler::tick`] look at the pause of an endpoint when it ends, unless it does sooner: a pause that becomes
    /// longer again and again stands in the heap once.
    pub(super) fn await_end(&mut self, index: usize) {
        let state = &mut self.endpoints[index];
        let Some(until_ms) = state.definition.paused_until_ms else {
            return;
        };
        if state.pause_seen_ms.is_none_or(|seen| until_ms < seen) {
            state.pause_seen_ms = Some(until_ms);
            let entry = (until_ms, index, state.definition.id);
            self.pauses.push(Reverse(entry));
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

    /// Whether a delivery stays in memory until the pause of its endpoint ends: it was refused, and is to go first then. As
    /// many of an endpoint do as of its retries, and all tests, since the queue of an inactive webhook is not read.
    pub(super) fn waits_for_end(&self, key: usize) -> bool {
        let delivery = &self.deliveries[key];
        let state = &self.endpoints[delivery.endpoint];
        let has_room = state.refused.len() < RETRIES_AHEAD as usize;
        delivery.refused
            && !delivery.is_wanted()
            && state.definition.is_paused()
            && (has_room || delivery.event.event_type == TEST)
    }

    /// A delivery that waits has the end of the pause make it ready.
    pub(super) fn await_end_of_pause(&mut self, key: usize) {
        let delivery = &self.deliveries[key];
        self.endpoints[delivery.endpoint]
            .refused
            .push((key, delivery.id));
    }

    /// After the end of a pause: those that were refused are ready, and others are read.
    fn go_on(&mut self, index: usize) {
        for (key, id) in std::mem::take(&mut self.endpoints[index].refused) {
            self.fire(key, id);
        }
        self.feed(index);
        self.list(index);
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
            if state.pause_seen_ms == Some(until_ms) {
                state.pause_seen_ms = None;
            }
            match state.definition.paused_until_ms {
                Some(until_ms) if until_ms <= now.unix_ms => self.end_pause(index),
                Some(_) => self.await_end(index),
                None => {}
            }
        }
    }

    fn end_pause(&mut self, index: usize) {
        let state = &mut self.endpoints[index];
        state.definition.paused_until_ms = None;
        state.slow_start = Some(SlowStart::default());
        state.begin_era();
        self.go_on(index);
    }

    /// Ends pauses that are too long to be any, once the clock has been set back.
    pub(super) fn heed_clock(&mut self, now: Now) {
        let before_ms = std::mem::replace(&mut self.clock_ms, now.unix_ms);
        if now.unix_ms >= before_ms {
            return;
        }
        let is_wrong = |until_ms: i64| until_ms > now.unix_ms.saturating_add(LONGEST_MS);
        let wrong: Vec<usize> = self
            .endpoints
            .iter()
            .filter(|(_, state)| state.definition.paused_until_ms.is_some_and(is_wrong))
            .map(|(index, _)| index)
            .collect();
        for index in wrong {
            self.end_pause(index);
            self.note_pause(index);
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
            self.give_back(index);
        } else {
            self.note_pause(index);
            self.go_on(index);
        }
    }

    /// Whether the tables are to be told of a pause, and soon: a crash would forget it.
    #[must_use]
    pub fn has_new_pause(&self) -> bool {
        self.pause_is_new
    }
}
