//! What is due by time alone.

use super::*;

impl Scheduler {
    /// Does what is due by time alone.
    pub fn tick(&mut self, now: Now) {
        self.heed_clock(now);
        // Before retries, which are to go first when a pause is over.
        self.end_pauses(now);
        while let Some(&Reverse((due_ms, key, id))) = self.retries.peek() {
            if due_ms > now.unix_ms {
                break;
            }
            self.retries.pop();
            // One that was tried sooner, because a user asked for it, may wait for a later time by now.
            let waits = self.deliveries.get(key).is_some_and(|it| {
                it.id == id
                    && matches!(it.place, Place::Waiting { due_ms: due, .. } if due == due_ms)
            });
            if waits {
                self.fire(key, id);
            }
        }
        while let Some(&Reverse((at, index))) = self.held.peek() {
            if at > now.mono_ms {
                break;
            }
            self.held.pop();
            if let Some(state) = self.endpoints.get_mut(index) {
                state.held = false;
                self.list(index);
                self.drop_if_unused(index);
            }
        }
        while let Some(&(read_ms, group, serial)) = self.group_ages.front() {
            let over = self.groups.get(group).is_none_or(|g| g.serial != serial);
            if !over && now.mono_ms < read_ms + GROUP_AGE_MS {
                break;
            }
            self.group_ages.pop_front();
            if over {
                continue;
            }
            if self.groups[group].postponed < POSTPONED_MOST && self.is_underway(group) {
                self.groups[group].postponed += 1;
                self.group_ages.push_back((now.mono_ms, group, serial));
            } else {
                self.flush(group, now);
            }
        }
        while let Some(&(ended_ms, group, serial)) = self.group_endings.front() {
            let over = self.groups.get(group).is_none_or(|g| g.serial != serial);
            if !over && now.mono_ms < ended_ms + ENDED_AGE_MS {
                break;
            }
            self.group_endings.pop_front();
            if !over {
                self.flush(group, now);
            }
        }
        while let Some(&(started, key, id)) = self.started.front() {
            let Some(delivery) = self.deliveries.get_mut(key).filter(|d| d.id == id) else {
                self.started.pop_front();
                continue;
            };
            let Place::InFlight { slow, .. } = &mut delivery.place else {
                self.started.pop_front();
                continue;
            };
            if now.mono_ms < started + SLOW_MS {
                break;
            }
            self.started.pop_front();
            if !*slow {
                *slow = true;
                self.slow_in_flight += 1;
            }
            let index = delivery.endpoint;
            let state = &mut self.endpoints[index];
            if state.pace == Pace::Fast || state.pace == Pace::Unknown {
                state.pace = Pace::Slow;
                // What is known to be slow may have more at once than what is not known at all.
                self.list(index);
            }
        }
    }

    /// Makes everything that has ended ready to be written, though others of its event have not: nothing more will end.
    pub fn flush_ended(&mut self, now: Now) {
        while let Some((_, group, serial)) = self.group_endings.pop_front() {
            if self.groups.get(group).is_some_and(|it| it.serial == serial) {
                self.flush(group, now);
            }
        }
    }

    /// Whether a group only waits for its turn at endpoints that answer fast, and a crash would repeat no more of
    /// it than what is in flight: then queue rows would be written for nothing.
    fn is_underway(&self, group: usize) -> bool {
        let it = &self.groups[group];
        it.endings.is_empty()
            && it.parked.is_empty()
            && it.undecided.is_empty()
            && it.members.iter().all(|&key| {
                let delivery = self.deliveries.get(key);
                delivery.is_some_and(|it| {
                    let state = &self.endpoints[it.endpoint];
                    state.pace == Pace::Fast && !state.definition.is_paused()
                })
            })
    }

    /// Milliseconds until [`Scheduler::tick`] has something to do; `None`: not before something happens.
    #[must_use]
    pub fn wake_in(&self, now: Now) -> Option<u64> {
        let retry = self.retries.peek().map(|Reverse((due_ms, ..))| {
            u64::try_from(due_ms.saturating_sub(now.unix_ms)).unwrap_or(0)
        });
        let held = self
            .held
            .peek()
            .map(|Reverse((at, _))| at.saturating_sub(now.mono_ms));
        let group = self
            .group_ages
            .front()
            .map(|&(read_ms, ..)| (read_ms + GROUP_AGE_MS).saturating_sub(now.mono_ms));
        let ended = self
            .group_endings
            .front()
            .map(|&(ended_ms, ..)| (ended_ms + ENDED_AGE_MS).saturating_sub(now.mono_ms));
        let slow = self
            .started
            .front()
            .map(|&(started, ..)| (started + SLOW_MS).saturating_sub(now.mono_ms));
        let pause = self.pauses.peek().map(|Reverse((until_ms, ..))| {
            u64::try_from(until_ms.saturating_sub(now.unix_ms)).unwrap_or(0)
        });
        let shortage = self.shortage.ends_in(now.mono_ms);
        [retry, held, group, ended, slow, pause, shortage]
            .into_iter()
            .flatten()
            .min()
    }

    /// A retry's time has come.
    pub(super) fn fire(&mut self, key: usize, id: Uuid) {
        let Some(delivery) = self.deliveries.get(key) else {
            return;
        };
        let Place::Waiting { bare, .. } = delivery.place else {
            return;
        };
        if delivery.id != id {
            return;
        }
        let (index, seq) = (delivery.endpoint, delivery.seq);
        let state = &self.endpoints[index];
        let event_type = &delivery.event.event_type;
        let most = match delivery.is_wanted() || event_type == TEST {
            true => usize::MAX,
            false if delivery.refused => 2 * RETRIES_AHEAD as usize,
            false => 2 * state.prefetch(),
        };
        let full = state.ready.len() >= most;
        let kept_back = state.definition.keeps_back(event_type);
        if state.gone {
            self.forget(key);
        } else if !bare && !kept_back && self.waits_for_end(key) {
            self.await_end_of_pause(key);
        } else if bare || full || kept_back {
            self.forget(key);
            self.rewind(index, seq - 1);
        } else {
            self.make_ready(key);
        }
    }
}
