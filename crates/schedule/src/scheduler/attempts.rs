//! Attempts start and end.

use super::pause::Asked;
use super::*;
use std::time::Duration;

/// So long after a time, Unix milliseconds.
pub(super) fn later(at_ms: i64, by: Duration) -> i64 {
    at_ms.saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX))
}

impl Scheduler {
    /// The next delivery to attempt, if one may start now.
    pub fn claim(&mut self, limits: &Limits, now: Now) -> Option<Claim> {
        // Endpoints that are slow never keep out those of which nothing is known, nor both of them the fast ones.
        let slow_most = (limits.max_in_flight / 2).max(1);
        let unknown_most = (limits.max_in_flight * 3 / 4).max(1);
        while self.in_flight < limits.max_in_flight
            && self.shortage.allows(self.in_flight, now.mono_ms)
        {
            let mut waiting = None;
            if self.slow_in_flight < unknown_most {
                waiting = self.unknown_waiting.pop_front();
            }
            if waiting.is_none() && self.slow_in_flight < slow_most {
                waiting = self.slow_waiting.pop_front();
            }
            let index = waiting.or_else(|| self.runnable.pop_front())?;
            self.endpoints[index].listed = false;
            let Some(place) = self.next_of(index) else {
                self.drop_if_unused(index);
                continue;
            };
            let state = &mut self.endpoints[index];
            let key = state.ready[place];
            let wanted = self.deliveries[key].is_wanted();
            let full = state.slow_start.filter(|_| !wanted);
            if state.held || full.is_some_and(|it| state.era_in_flight >= it.at_once()) {
                continue;
            }
            let fast = state.pace == Pace::Fast;
            let at_once = match state.pace {
                Pace::Fast | Pace::Slow => limits.concurrent,
                Pace::Unknown if self.slow_in_flight < limits.max_in_flight / 4 => {
                    limits.concurrent
                }
                Pace::Unknown | Pace::TimedOut => 1,
            };
            if state.in_flight >= at_once {
                continue;
            }
            let (most, queue) = if state.pace == Pace::Unknown {
                (unknown_most, &mut self.unknown_waiting)
            } else {
                (slow_most, &mut self.slow_waiting)
            };
            if !fast && self.slow_in_flight >= most {
                state.listed = true;
                queue.push_back(index);
                continue;
            }
            if state.unsaved > 0 && state.in_flight + state.unsaved >= limits.reserved() {
                self.waits_for_saving = true;
                continue;
            }
            let reserved = if now.mono_ms < state.reserved_until_ms {
                limits.reserved()
            } else {
                0
            };
            if let Err(at) =
                state
                    .window
                    .may_start(now.mono_ms, state.in_flight + reserved, limits.per_minute)
            {
                // When the reserve is free, more may start.
                let at = if reserved > 0 {
                    at.min(state.reserved_until_ms)
                } else {
                    at
                };
                if at != u64::MAX && !state.held {
                    state.held = true;
                    self.held.push(Reverse((at, index)));
                }
                continue;
            }
            state.ready.remove(place);
            state.in_flight += 1;
            state.era_in_flight += 1;
            let era = state.era;
            let more = !state.ready.is_empty() && state.in_flight < at_once;
            let (target, endpoint, owner) = (
                Arc::clone(&state.definition.target),
                state.definition.endpoint.clone(),
                state.definition.owner_number(),
            );
            self.left_ready(key);
            if more {
                self.list(index);
            }
            self.feed(index);
            self.in_flight += 1;
            if !fast {
                self.slow_in_flight += 1;
            }
            let delivery = &mut self.deliveries[key];
            delivery.place = Place::InFlight { slow: !fast, era };
            self.started.push_back((now.mono_ms, key, delivery.id));
            return Some(Claim {
                token: key as u64,
                event: Arc::clone(&delivery.event),
                target,
                endpoint,
                owner,
                delivery: delivery.id,
                attempt: delivery.attempts + 1,
            });
        }
        None
    }

    /// Takes in the outcome of an attempt. `jitter` as in [`webhooks_core::retry::delay`].
    pub fn ended(&mut self, ended: Ended, limits: &Limits, now: Now, jitter: Option<f64>) {
        self.shortage.worked(now.mono_ms);
        self.was_made(&ended);
        self.end_attempt(ended, limits, now, jitter);
    }

    /// A request is under way no longer.
    pub(super) fn leave_flight(&mut self, key: usize) {
        let delivery = &self.deliveries[key];
        let Place::InFlight { slow, era } = delivery.place else {
            return;
        };
        self.in_flight -= 1;
        self.slow_in_flight -= usize::from(slow);
        let state = &mut self.endpoints[delivery.endpoint];
        state.in_flight -= 1;
        if era == state.era {
            state.era_in_flight -= 1;
        }
    }

    pub(super) fn end_attempt(
        &mut self,
        ended: Ended,
        limits: &Limits,
        now: Now,
        jitter: Option<f64>,
    ) {
        let Ok(key) = usize::try_from(ended.token) else {
            return;
        };
        let Some(delivery) = self.deliveries.get_mut(key) else {
            return;
        };
        let Place::InFlight { era, .. } = delivery.place else {
            return;
        };
        let index = delivery.endpoint;
        let group = delivery.group;
        delivery.attempts += 1;
        let number = delivery.attempts;
        let in_round = number - delivery.attempts_before;
        let cancelled = delivery.cancelled;
        let quiet = delivery.event.is_failure_report();
        delivery.wanted = false;
        delivery.hindered = false;
        self.leave_flight(key);
        let state = &mut self.endpoints[index];
        if limits.per_minute > 0 {
            state.window.ended(now.mono_ms);
            if state.unsaved == 0 {
                self.unsaved.push(index);
            }
            state.unsaved += 1;
        }
        state.pace = if ended.timed_out {
            Pace::TimedOut
        } else if ended.duration_ms >= SLOW_MS {
            Pace::Slow
        } else {
            Pace::Fast
        };
        let ended_ms = ended
            .started_ms
            .saturating_add(i64::try_from(ended.duration_ms).unwrap_or(0));
        let judged = verdict::judge(
            &ended.result,
            &state.definition.policy,
            in_round,
            ended_ms,
            jitter,
        );
        let (status, error) = match ended.result {
            verdict::Ended::Status { code, .. } => {
                let failed = !matches!(judged.verdict, Verdict::Delivered);
                (
                    Some(code),
                    failed.then(|| format!("the endpoint answered {code}")),
                )
            }
            verdict::Ended::Error(error) => (None, Some(error)),
        };
        self.deliveries[key].refused = status.is_some_and(verdict::is_refusal);
        let attempt = Attempt {
            number,
            started_ms: ended.started_ms,
            duration_ms: i32::try_from(ended.duration_ms).unwrap_or(i32::MAX),
            status,
            error: match (error, ended.remark) {
                (Some(error), Some(remark)) => Some(format!("{error}; {remark}")),
                (error, remark) => error.or(remark),
            },
            excerpt: ended.excerpt,
        };
        state.delta.attempts += 1;
        let how = match judged.verdict {
            _ if cancelled => How::Late,
            Verdict::Delivered => {
                state.delta.delivered += 1;
                state.delta.last_delivery_ms = Some(ended_ms);
                state.definition.failing_since_ms = None;
                state.definition.failed_since_success = 0;
                state.definition.failing = None;
                How::Delivered
            }
            Verdict::Failed => {
                state.delta.failed += 1;
                state.definition.failing_since_ms.get_or_insert(ended_ms);
                state.definition.failed_since_success += 1;
                How::Failed
            }
            Verdict::Retry { after } => How::RetryAt(later(ended_ms, after)),
        };
        if matches!(how, How::Failed | How::RetryAt(_)) {
            Failing::add(&mut state.definition.failing, ended_ms, &attempt);
        }
        self.count(index);
        let state = &self.endpoints[index];
        let definition = &state.definition;
        let disable = if judged.disable {
            Some("the endpoint answered 410 Gone".to_owned())
        } else if how == How::Failed
            && verdict::should_disable(
                definition.failed_since_success,
                definition.failing_since_ms,
                now.unix_ms,
                limits.disable_after_ms,
            )
        {
            Some(format!(
                "{} deliveries failed without a success between",
                definition.failed_since_success
            ))
        } else {
            None
        };
        let disable = disable
            .filter(|_| definition.active && !state.gone && !cancelled)
            .map(|reason| Disable {
                webhook: definition.id,
                activation: definition.activation,
                owner: definition.owner.clone(),
                reason,
                status,
                quiet,
            });
        match how {
            How::RetryAt(due_ms) => self.wait(key, due_ms, attempt, ended_ms),
            how => self.conclude(key, how, Some(attempt), ended_ms),
        }
        if ended.timed_out {
            self.give_back(index);
        }
        // The clock may have been set back since.
        let is_possible = ended_ms <= now.unix_ms.saturating_add(CLOCK_MARGIN_MS);
        let from_ms = if is_possible { ended_ms } else { now.unix_ms };
        let pause = judged.pause.map(|length| Asked { from_ms, length });
        self.heed(index, era, status, pause, limits);
        if let Some(group) = group {
            self.note_ending(group, now);
        }
        if let Some(disable) = disable {
            let webhook = disable.webhook;
            self.done.push(Unit {
                disable: Some(disable),
                ..Unit::default()
            });
            self.disable(webhook);
        }
        self.list(index);
        self.drop_if_unused(index);
    }

    /// Remembers when the first delivery of a group ended, if others have not.
    fn note_ending(&mut self, group: usize, now: Now) {
        if let Some(it) = self.groups.get_mut(group).filter(|it| !it.ended) {
            it.ended = true;
            self.group_endings
                .push_back((now.mono_ms, group, it.serial));
        }
    }

    pub(super) fn ending(
        delivery: &Delivery,
        webhook: Uuid,
        how: How,
        attempt: Option<Attempt>,
        ended_ms: i64,
    ) -> Ending {
        Ending {
            id: delivery.id,
            event: Arc::clone(&delivery.event),
            webhook,
            how,
            recorded: delivery.group.is_none(),
            attempt,
            attempts: delivery.attempts,
            created_ms: delivery.created_ms,
            ended_ms,
            seq: delivery.seq,
        }
    }

    /// A delivery is over.
    pub(super) fn conclude(
        &mut self,
        key: usize,
        how: How,
        attempt: Option<Attempt>,
        ended_ms: i64,
    ) {
        let delivery = &self.deliveries[key];
        let webhook = self.endpoints[delivery.endpoint].definition.id;
        let group = delivery.group;
        let how = match (how, group) {
            (How::Late, Some(_)) => How::Cancelled,
            (how, _) => how,
        };
        let ending = Self::ending(delivery, webhook, how, attempt, ended_ms);
        let id = delivery.id;
        self.forget(key);
        match group {
            Some(group) => {
                let it = &mut self.groups[group];
                it.endings.push(ending);
                it.unfinished -= 1;
                self.fresh -= 1;
                self.flush_if_over(group);
            }
            None => {
                self.settling.insert(id);
                self.done.push(Unit {
                    endings: vec![ending],
                    ..Unit::default()
                });
            }
        }
    }

    /// A delivery waits for its next attempt: with a row, from now. It stays in memory at least until that
    /// is written, so that whoever reads retries meanwhile cannot miss it.
    pub(super) fn wait(&mut self, key: usize, due_ms: i64, attempt: Attempt, ended_ms: i64) {
        let delivery = &mut self.deliveries[key];
        let webhook = self.endpoints[delivery.endpoint].definition.id;
        let group = delivery.group;
        let ending = Self::ending(
            delivery,
            webhook,
            How::RetryAt(due_ms),
            Some(attempt),
            ended_ms,
        );
        delivery.group = None;
        delivery.since_ms = due_ms;
        delivery.place = Place::UNCOUNTED;
        let id = delivery.id;
        self.by_id.insert(id, key);
        match group {
            Some(group) => {
                let it = &mut self.groups[group];
                it.endings.push(ending);
                it.unfinished -= 1;
                self.fresh -= 1;
                self.flush_if_over(group);
            }
            None => self.done.push(Unit {
                endings: vec![ending],
                ..Unit::default()
            }),
        }
    }
}
