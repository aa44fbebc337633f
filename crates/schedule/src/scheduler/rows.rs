//! Rows of the queue come into memory, and what was written leaves it.

use super::*;

/// Why a row comes into memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Reason {
    /// Its endpoint has asked for it.
    Asked,
    /// It is due, or will be.
    Due,
    /// A user wants it now.
    Wanted,
}

impl Scheduler {
    /// What is to be written now.
    #[must_use]
    pub fn take_units(&mut self) -> Vec<Unit> {
        self.units_taken += self.done.len() as u64;
        self.done.take()
    }

    /// How many units wait to be written.
    #[must_use]
    pub fn units(&self) -> usize {
        self.done.len()
    }

    /// How many deliveries they write of.
    #[must_use]
    pub fn unit_rows(&self) -> usize {
        self.done.rows()
    }

    /// How many units there have been so far, those that were written among them.
    #[must_use]
    pub fn units_made(&self) -> u64 {
        self.units_taken + self.done.len() as u64
    }

    /// A unit has been written.
    pub fn written(&mut self, unit: &Unit) {
        if let Some(key) = unit.outbox {
            self.outbox.remove(&key.id);
        }
        for ending in &unit.endings {
            self.settling.remove(&ending.id);
            if let How::RetryAt(due_ms) = ending.how {
                self.await_retry(ending.id, due_ms);
            }
        }
        for queued in &unit.queued {
            if !self.by_id.contains_key(&queued.id)
                && let Some(&index) = self.by_webhook.get(&queued.webhook)
            {
                self.rewind(index, queued.seq - 1);
            }
        }
        if let Some(quarantine) = &unit.quarantine {
            self.settling.remove(&quarantine.delivery);
        }
        if let Some(hurried) = unit.hurried {
            self.hurried(hurried);
        }
    }

    /// A user asks for the next attempt of a delivery now, by this outbox row. If it waits for a later time, its row becomes
    /// due; if it is ready, it goes first.
    pub fn hurry(&mut self, outbox: OutboxKey, hurried: Hurried, now: Now) {
        if !self.outbox.insert(outbox.id) {
            return;
        }
        let known = self.key_of(hurried.delivery);
        let waits =
            known.is_none_or(|key| matches!(self.deliveries[key].place, Place::Waiting { .. }));
        if let Some(key) = known.filter(|_| !waits) {
            self.want(key);
        }
        if known.is_none() {
            self.flush_parked(hurried, now);
        }
        self.done.push(Unit {
            outbox: Some(outbox),
            hurried: waits.then_some(hurried),
            ..Unit::default()
        });
    }

    /// A delivery in memory, fresh or not.
    fn key_of(&self, delivery: Uuid) -> Option<usize> {
        // Of fresh events there are never many; of deliveries there may be.
        let mut members = self.groups.iter().flat_map(|(_, group)| &group.members);
        let is_it = |key: usize| self.deliveries.get(key).is_some_and(|it| it.id == delivery);
        let known = self.by_id.get(&delivery).copied();
        known.or_else(|| members.find(|&&key| is_it(key)).copied())
    }

    /// A fresh delivery that stands behind others of its endpoint gets its row.
    fn flush_parked(&mut self, Hurried { delivery, webhook }: Hurried, now: Now) {
        let Some(&index) = self.by_webhook.get(&webhook) else {
            return;
        };
        let parked = self.endpoints[index].parked.iter().copied().find(|&group| {
            let event = self.groups[group].event.id;
            webhooks_core::id::delivery(event, webhook, 0) == delivery
        });
        if let Some(group) = parked {
            self.flush(group, now);
        }
    }

    /// The row of a delivery has become due.
    fn hurried(&mut self, hurried: Hurried) {
        match self.by_id.get(&hurried.delivery) {
            Some(&key) => self.want(key),
            None => self.fetch_hurried(hurried),
        }
    }

    /// The row of a delivery that a user wants now is to be fetched.
    pub(super) fn fetch_hurried(&mut self, hurried: Hurried) {
        let of_webhook = self
            .hurried
            .iter()
            .filter(|it| it.webhook == hurried.webhook);
        if self.hurried.len() >= HURRIED_MOST || of_webhook.count() >= HURRIED_EACH {
            // As many as that are found as others are that have come by themselves.
            self.requeued(hurried.webhook);
            self.reread_due();
        } else {
            self.hurried.push(hurried);
        }
    }

    /// At most `most` deliveries that users want now and that are not in memory. The caller fetches their rows and gives
    /// them to [`Scheduler::hurried_rows`]. Those for which there is no room wait.
    #[must_use]
    pub fn wants_hurried(&mut self, most: usize) -> Vec<Hurried> {
        let mut wanted: Vec<Hurried> = Vec::new();
        let mut without_room = Vec::new();
        for hurried in std::mem::take(&mut self.hurried) {
            let of_webhook = wanted.iter().filter(|it| it.webhook == hurried.webhook);
            if wanted.len() < most && of_webhook.count() < self.room_for_wanted(hurried.webhook) {
                wanted.push(hurried);
            } else {
                without_room.push(hurried);
            }
        }
        self.hurried = without_room;
        wanted
    }

    /// How many more deliveries that users want may be made ready for a webhook. As with others, there is room for one of
    /// each even if what is ready for others takes all room.
    fn room_for_wanted(&self, webhook: Uuid) -> usize {
        let state = self.by_webhook.get(&webhook);
        let ready = state.map_or(0, |&index| {
            let ready = &self.endpoints[index].ready;
            ready.partition_point(|&key| self.deliveries[key].is_wanted())
        });
        let most = match self.is_full() {
            false => WANTED_MOST,
            true => usize::from(self.ready_bytes < READY_BYTES_LAST),
        };
        most.saturating_sub(ready)
    }

    /// Rows that [`Scheduler::wants_hurried`] asked for; those that are not there any more have ended.
    pub fn hurried_rows(&mut self, rows: Vec<Recorded>, now: Now) {
        for row in rows {
            if let Some(&index) = self.by_webhook.get(&row.webhook) {
                self.absorb(index, row, now, Reason::Wanted);
            }
        }
    }

    /// Rows that [`Scheduler::wants_hurried`] asked for could not be read, and are to be asked for again.
    pub fn put_back_hurried(&mut self, hurried: Vec<Hurried>) {
        self.hurried.extend(hurried);
    }

    /// Figures that were counted since the last call.
    #[must_use]
    pub fn take_stats(&mut self) -> Vec<(Uuid, StatsDelta)> {
        self.pause_is_new = false;
        let mut taken = Vec::with_capacity(self.counted.len());
        for index in std::mem::take(&mut self.counted) {
            // The place of one that is gone may be another's by now, who stands in the list twice.
            let state = self.endpoints.get_mut(index);
            if let Some(state) = state.filter(|state| state.counted) {
                state.counted = false;
                let mut delta = std::mem::take(&mut state.delta);
                delta.failing.clone_from(&state.definition.failing);
                taken.push((state.definition.id, delta));
            }
        }
        taken
    }

    /// Has figures of an endpoint written, with its state now.
    pub(super) fn count(&mut self, index: usize) {
        let state = &mut self.endpoints[index];
        let definition = &state.definition;
        state.delta.activation = definition.activation;
        state.delta.failing_since_ms = definition.failing_since_ms;
        state.delta.failed_since_success = definition.failed_since_success;
        if !state.counted {
            state.counted = true;
            self.counted.push(index);
        }
    }

    /// Figures of [`Scheduler::take_stats`] that could not be written.
    pub fn put_back_stats(&mut self, stats: Vec<(Uuid, StatsDelta)>) {
        for (webhook, old) in stats {
            let Some(&index) = self.by_webhook.get(&webhook) else {
                continue;
            };
            let state = &mut self.endpoints[index];
            state.delta.attempts += old.attempts;
            state.delta.delivered += old.delivered;
            state.delta.failed += old.failed;
            state.delta.last_delivery_ms = state.delta.last_delivery_ms.max(old.last_delivery_ms);
            state.delta.pause = state.delta.pause.take().or(old.pause);
            self.count(index);
        }
    }

    /// Whether there are figures to write.
    #[must_use]
    pub fn has_stats(&self) -> bool {
        !self.counted.is_empty()
    }

    /// Webhooks that want rows of the queue. Units may wait to be written meanwhile: their rows are read once they are there.
    #[must_use]
    pub fn wants_rows(&mut self, most: usize) -> Vec<Wanted> {
        let mut wanting = Vec::new();
        // They keep their place.
        let mut without_room = VecDeque::new();
        while wanting.len() < most {
            let Some(index) = self.hungry.pop_front() else {
                break;
            };
            let Some(state) = self.endpoints.get(index) else {
                continue;
            };
            let room = self.room_for(state);
            if !state.gone && room == 0 {
                without_room.push_back(index);
                continue;
            }
            let state = &mut self.endpoints[index];
            state.hungry = false;
            if state.gone {
                self.drop_if_unused(index);
                continue;
            }
            if state.backlog && state.definition.sends() && state.ready.len() < state.low() {
                wanting.push(Wanted {
                    webhook: state.definition.id,
                    after: state.cursor,
                    most: room,
                });
            }
        }
        without_room.append(&mut self.hungry);
        self.hungry = without_room;
        wanting
    }

    /// Rows that [`Scheduler::wants_rows`] asked for, in order; `upto`: the last one looked at, also if it
    /// is not among them; `more`: the queue has more of this webhook.
    pub fn rows(
        &mut self,
        webhook: Uuid,
        rows: Vec<Recorded>,
        upto: Option<i64>,
        more: bool,
        now: Now,
    ) {
        let Some(&index) = self.by_webhook.get(&webhook) else {
            return;
        };
        self.endpoints[index].backlog = more;
        for row in rows {
            self.endpoints[index].cursor = row.seq;
            self.absorb(index, row, now, Reason::Asked);
        }
        let state = &mut self.endpoints[index];
        if let Some(upto) = upto.filter(|_| state.definition.sends()) {
            state.cursor = state.cursor.max(upto);
        }
        self.feed(index);
    }

    /// The key after which retries are to be read, and up to when; `None`: not yet.
    #[must_use]
    pub fn wants_due(&self, now: Now) -> Option<((i64, Uuid), i64)> {
        let until = now.unix_ms + DUE_WINDOW_MS;
        match self.due_position {
            None => Some(((i64::MIN, Uuid::nil()), until)),
            // The clock has been set back: what lies between is read again, and known.
            Some((at, _)) if at > until + DUE_WINDOW_MS => {
                Some(((now.unix_ms, Uuid::nil()), until))
            }
            Some(position) if self.due_full && self.retries.len() < READY_MAX => {
                Some((position, until))
            }
            Some((at, id)) if !self.due_full && now.unix_ms >= at - DUE_WINDOW_MS / 2 => {
                Some(((at, id), until))
            }
            Some(_) => None,
        }
    }

    /// In how many milliseconds rows are to be fetched: what [`Scheduler::wants_rows`] and [`Scheduler::wants_due`] ask for.
    #[must_use]
    pub fn rows_in(&self, now: Now) -> Option<u64> {
        let room = |&index: &usize| {
            let state = self.endpoints.get(index);
            state.is_none_or(|state| state.gone || self.room_for(state) > 0)
        };
        let wanted = |it: &Hurried| self.room_for_wanted(it.webhook) > 0;
        if self.hurried.iter().any(wanted) || self.hungry.iter().any(room) {
            return Some(0);
        }
        if self.wants_due(now).is_some() {
            // Many pages of retries leave time for others.
            return Some(if self.due_full { DUE_PAUSE_MS } else { 0 });
        }
        self.due_position
            .filter(|_| !self.due_full)
            .map(|(at, _)| u64::try_from(at - DUE_WINDOW_MS / 2 - now.unix_ms).unwrap_or(0))
    }

    /// Retries that [`Scheduler::wants_due`] asked for, in order. `full`: there are more, behind this key.
    pub fn due_rows(
        &mut self,
        rows: Vec<Recorded>,
        until: i64,
        full: Option<(i64, Uuid)>,
        now: Now,
    ) {
        for row in rows {
            if let Some(&index) = self.by_webhook.get(&row.webhook) {
                self.absorb(index, row, now, Reason::Due);
            }
        }
        self.due_full = full.is_some();
        self.due_position = full.or(Some((until, Uuid::max())));
        if self.due_again && !self.due_full {
            self.due_again = false;
            self.due_position = None;
        }
    }

    /// Retries are read from the beginning again: some may have come by a restore. If they are being read, that comes to its
    /// end first: whoever asks for this again and again keeps nobody's from being read.
    pub fn reread_due(&mut self) {
        if self.due_full {
            self.due_again = true;
        } else {
            self.due_position = None;
        }
    }

    /// The queue holds rows behind `after` that memory does not.
    pub(super) fn rewind(&mut self, index: usize, after: i64) {
        let Some(state) = self.endpoints.get_mut(index) else {
            return;
        };
        state.cursor = if state.backlog {
            state.cursor.min(after)
        } else {
            after
        };
        state.backlog = true;
        self.feed(index);
    }

    /// What is ready for an endpoint beyond what it takes soon is left to its rows, as far as it has any.
    pub(super) fn give_back(&mut self, index: usize) {
        let mut first = None;
        while let Some(state) = self.endpoints.get_mut(index)
            && state.ready.len() > state.prefetch()
            && let Some(&key) = state.ready.back()
            && self.deliveries[key].group.is_none()
            && !self.deliveries[key].is_wanted()
        {
            let waits = self.waits_for_end(key);
            let delivery = &self.deliveries[key];
            if !waits && delivery.event.event_type == TEST {
                break;
            }
            let seq = delivery.seq;
            self.endpoints[index].ready.pop_back();
            if waits {
                self.left_ready(key);
                self.keep_waiting(i64::MIN, key);
                self.await_end_of_pause(key);
                continue;
            }
            first = Some(first.map_or(seq, |first: i64| first.min(seq)));
            self.left_ready(key);
            self.forget(key);
        }
        if let Some(first) = first {
            self.rewind(index, first - 1);
        }
    }

    /// A recorded delivery comes into memory from its row.
    pub(super) fn absorb(&mut self, index: usize, row: Recorded, now: Now, why: Reason) {
        if let Some(&key) = self.by_id.get(&row.id) {
            // It has come by itself since the user asked.
            if why == Reason::Wanted {
                self.want(key);
            }
            return;
        }
        if self.settling.contains(&row.id) {
            return;
        }
        let due_ms = row.due_ms.filter(|&due| due > now.unix_ms);
        let state = &self.endpoints[index];
        let event_type = &row.event.event_type;
        let full = match why {
            Reason::Asked | Reason::Wanted => false,
            Reason::Due if event_type == TEST => false,
            // It is to go first.
            Reason::Due if row.refused => {
                state.ready.len().max(state.refused.len()) >= RETRIES_AHEAD as usize
            }
            Reason::Due => state.ready.len() >= state.prefetch(),
        };
        let kept_back = state.definition.keeps_back(event_type);
        if due_ms.is_none() && (full || kept_back) {
            self.rewind(index, row.seq - 1);
            return;
        }
        if let (Some(filter), Some(judged)) = (&state.definition.filter, &row.undecided)
            && !filter.is_empty()
            && !webhooks_core::json::parse(judged).is_ok_and(|judged| filter.matches(&judged))
        {
            self.drop_unwanted(row, now);
            return;
        }
        let key = self.deliveries.insert(Delivery {
            id: row.id,
            endpoint: index,
            event: row.event,
            attempts: row.attempts,
            attempts_before: row.attempts_before,
            seq: row.seq,
            created_ms: row.created_ms,
            group: None,
            place: Place::UNCOUNTED,
            cancelled: false,
            wanted: why == Reason::Wanted,
            refused: row.refused,
            since_ms: row.due_ms.unwrap_or(row.created_ms),
            hindered: false,
            defects: 0,
        });
        self.endpoints[index].members += 1;
        self.by_id.insert(row.id, key);
        match due_ms {
            Some(due_ms) => self.wait_until(due_ms, key),
            None if self.waits_for_end(key) => {
                self.keep_waiting(i64::MIN, key);
                self.await_end_of_pause(key);
            }
            None => self.make_ready(key),
        }
    }

    /// The event of a row was not for its webhook after all: the row goes, and leaves no trace.
    fn drop_unwanted(&mut self, row: Recorded, now: Now) {
        self.settling.insert(row.id);
        self.done.push(Unit {
            endings: vec![Ending {
                id: row.id,
                event: row.event,
                webhook: row.webhook,
                how: How::Unwanted,
                recorded: true,
                attempt: None,
                attempts: row.attempts,
                created_ms: row.created_ms,
                ended_ms: now.unix_ms,
                seq: row.seq,
            }],
            ..Unit::default()
        });
    }

    /// A retry has been written: it is kept in memory if it belongs to those that are, and else forgotten.
    pub(super) fn await_retry(&mut self, id: Uuid, due_ms: i64) {
        let Some(&key) = self.by_id.get(&id) else {
            return;
        };
        if !matches!(self.deliveries[key].place, Place::Waiting { .. }) {
            return;
        }
        let is_read = self
            .due_position
            .is_some_and(|position| (due_ms, id) <= position);
        // While many retries of others are still to be read, the few of this endpoint do not wait for them.
        let members = self.endpoints[self.deliveries[key].endpoint].members;
        let is_ahead = (self.due_full || self.due_position.is_none()) && members <= RETRIES_AHEAD;
        if is_read || is_ahead {
            self.wait_until(due_ms, key);
        } else {
            self.forget(key);
        }
    }
}
