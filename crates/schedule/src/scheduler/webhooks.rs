//! Webhooks in memory: their definitions come, change and go.

use super::*;

impl Scheduler {
    /// Takes in a new or changed webhook. `backlog`: whether the queue may hold rows of it.
    pub fn put(&mut self, definition: Definition, backlog: bool) {
        self.audiences.clear();
        let id = definition.id;
        let Some(&index) = self.by_webhook.get(&id) else {
            let owner = definition.owner.clone();
            let index = self.endpoints.insert(State::new(definition));
            self.by_webhook.insert(id, index);
            self.by_owner.entry(owner).or_default().push(index);
            self.await_end(index);
            if backlog {
                self.rewind(index, i64::MIN);
            }
            return;
        };
        let before = &self.endpoints[index].definition;
        let (sent, was_readable) = (before.sends(), before.unreadable.is_none());
        let (sends, readable) = (definition.sends(), definition.unreadable.is_none());
        if self.endpoints[index].definition.owner != definition.owner {
            self.leave_owner(index);
            let owner = definition.owner.clone();
            self.by_owner.entry(owner).or_default().push(index);
        }
        let before = std::mem::replace(&mut self.endpoints[index].definition, definition);
        self.follow_pause(index, &before);
        if sends {
            if !sent || backlog {
                self.rewind(index, i64::MIN);
            }
            self.list(index);
        } else {
            self.empty_ready(index);
        }
        if readable && !was_readable {
            // Tests that waited are due, whether the webhook is active or not.
            self.reread_due();
        }
    }

    /// Forgets a webhook that was deleted: what is fresh is cancelled, what has a row is left to the
    /// caller, once everything has been written, and what is under way will be written as cancelled.
    pub fn remove(&mut self, webhook: Uuid, now: Now) {
        self.audiences.clear();
        let Some(index) = self.by_webhook.remove(&webhook) else {
            return;
        };
        self.leave_owner(index);
        self.endpoints[index].gone = true;
        let ready = std::mem::take(&mut self.endpoints[index].ready);
        for key in ready {
            self.left_ready(key);
            if self.deliveries[key].group.is_some() {
                self.conclude(key, How::Cancelled, None, now.unix_ms);
            } else {
                self.forget(key);
            }
        }
        let mut waiting = Vec::new();
        for (key, delivery) in &mut self.deliveries {
            if delivery.endpoint == index {
                match delivery.place {
                    Place::InFlight { .. } => delivery.cancelled = true,
                    Place::Waiting { .. } => waiting.push(key),
                    Place::Ready => {}
                }
            }
        }
        for key in waiting {
            self.forget(key);
        }
        self.drop_if_unused(index);
    }

    fn leave_owner(&mut self, index: usize) {
        let owner = &self.endpoints[index].definition.owner;
        if let Some(members) = self.by_owner.get_mut(owner) {
            members.retain(|&member| member != index);
            if members.is_empty() {
                self.by_owner.remove(owner);
            }
        }
    }

    /// Every webhook in memory.
    pub fn webhooks(&self) -> impl Iterator<Item = &Definition> {
        self.by_webhook
            .values()
            .map(|&index| &self.endpoints[index].definition)
    }

    /// Whether the webhook is known.
    #[must_use]
    pub fn knows(&self, webhook: Uuid) -> bool {
        self.by_webhook.contains_key(&webhook)
    }

    /// Seeds the rate window with ends of attempts before a restart, monotonic milliseconds, in order.
    pub fn seed_window(&mut self, webhook: Uuid, ends: impl IntoIterator<Item = u64>) {
        if let Some(&index) = self.by_webhook.get(&webhook) {
            self.endpoints[index].window.seed(ends);
        }
    }

    /// Switches a webhook off in memory.
    pub fn disable(&mut self, webhook: Uuid) {
        if let Some(&index) = self.by_webhook.get(&webhook) {
            self.audiences.clear();
            let definition = &mut self.endpoints[index].definition;
            definition.active = false;
            // The moment is known when the row is read; until then in doubt for the event.
            definition.lifetime.paused = None;
            self.empty_ready(index);
        }
    }

    /// Settings have changed: whoever the rate limit holds is judged anew.
    pub fn settings_changed(&mut self) {
        for Reverse((_, index)) in std::mem::take(&mut self.held) {
            if let Some(state) = self.endpoints.get_mut(index) {
                state.held = false;
                self.list(index);
            }
        }
    }

    /// The queue has new rows of a webhook that were not written through [`Scheduler::take_units`].
    pub fn requeued(&mut self, webhook: Uuid) {
        if let Some(&index) = self.by_webhook.get(&webhook) {
            self.rewind(index, i64::MIN);
            if !self.endpoints[index].definition.sends() {
                // Its backlog is not read, but a test that is tried again is due.
                self.reread_due();
            }
        }
    }

    /// The queue has rows of a webhook, which may have come by themselves: unless it is being read, it is read again.
    pub fn has_rows(&mut self, webhook: Uuid) {
        if let Some(&index) = self.by_webhook.get(&webhook)
            && !self.endpoints[index].backlog
        {
            self.rewind(index, i64::MIN);
        }
    }

    /// An inactive webhook keeps only tests in memory, one that cannot be read nothing; everything else waits in
    /// the queue.
    pub(super) fn empty_ready(&mut self, index: usize) {
        let ready = std::mem::take(&mut self.endpoints[index].ready);
        for key in ready {
            let delivery = &self.deliveries[key];
            let definition = &self.endpoints[index].definition;
            if !definition.keeps_back(&delivery.event.event_type) {
                self.endpoints[index].ready.push_back(key);
                continue;
            }
            self.left_ready(key);
            self.leave_to_rows(index, key);
        }
    }

    /// A delivery that waits goes out of memory: to its row, or to its event if it has none yet.
    pub(super) fn leave_to_rows(&mut self, index: usize, key: usize) {
        let seq = self.deliveries[key].seq;
        if let Some(group) = self.deliveries[key].group {
            self.park(group, index, seq);
            self.forget(key);
        } else {
            self.forget(key);
            self.rewind(index, seq - 1);
        }
    }
}
