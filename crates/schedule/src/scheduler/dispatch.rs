//! Fresh events come in, and are written in groups.

use super::*;
use webhooks_core::filter::Filter;

impl Scheduler {
    /// How many more fresh events may be read from the outbox now.
    #[must_use]
    pub fn room(&self) -> usize {
        if self.fresh_bytes >= FRESH_BYTES_MAX {
            return 0;
        }
        FRESH_MAX.saturating_sub(self.fresh)
    }

    /// How many more fresh events may be taken in that were committed after others which have not been read: as many
    /// again, so that events which wait for slow endpoints keep none out.
    #[must_use]
    pub fn room_ahead(&self) -> usize {
        if self.fresh_bytes >= 2 * FRESH_BYTES_MAX {
            return 0;
        }
        (2 * FRESH_MAX).saturating_sub(self.fresh)
    }

    /// Writes the oldest fresh events as they stand, when there is no room for others.
    pub fn make_room(&mut self, now: Now) {
        for _ in 0..FLUSH_MOST {
            let Some((_, group, serial)) = self.group_ages.pop_front() else {
                return;
            };
            if self.groups.get(group).is_some_and(|it| it.serial == serial) {
                self.flush(group, now);
            }
        }
    }

    /// Whether a webhook may get an event before others that were committed earlier and have not been read: nothing
    /// of it waits, or the event is a test, which waits for nothing.
    #[must_use]
    pub fn waits_for_nothing(&self, index: usize, event_type: &str) -> bool {
        let state = &self.endpoints[index];
        let is_free = state.definition.sends()
            && !state.definition.is_paused()
            && state.definition.filter.is_some()
            && !state.held
            && !state.backlog
            && state.parked.is_empty()
            && state.ready.len() < state.low();
        is_free || event_type == TEST
    }

    /// Whether the outbox row of this event is being dealt with.
    #[must_use]
    pub fn dispatched(&self, event: Uuid) -> bool {
        self.outbox.contains(&event)
    }

    /// Appends the webhooks that an event is for.
    pub fn recipients(&mut self, of: &Addressed<'_>, chosen: &mut Vec<usize>) {
        if let Some(target) = of.target {
            chosen.extend(self.index_of(target));
            return;
        }
        let begin = chosen.len();
        let audience = self.audience(of.event_type, of.owner);
        self.choose(&audience, of.row, chosen);
        let mut kept = begin;
        for next in begin..chosen.len() {
            let definition = self.definition(chosen[next]);
            if Some(definition.id) != of.about
                && definition
                    .lifetime
                    .covers(definition.active, of.xid, of.created_ms, of.next_xid)
            {
                chosen[kept] = chosen[next];
                kept += 1;
            }
        }
        chosen.truncate(kept);
    }

    /// The webhooks that an event of this type and owner is for, filed under their filters; their lifetimes
    /// are not looked at: one that is switched off now may have been on when the event was committed.
    pub fn audience(&mut self, event_type: &str, owner: Option<&str>) -> Arc<Index<usize>> {
        let key = (event_type.to_owned(), owner.map(str::to_owned));
        if let Some(known) = self.audiences.get(&key) {
            return Arc::clone(known);
        }
        let owners = [None, key.1.clone()];
        let owners = &owners[..1 + usize::from(owner.is_some())];
        // Where the filter cannot be read every event may be wanted: `offer` keeps it back.
        let no_filter = Filter::default();
        let members = owners
            .iter()
            .filter_map(|owner| self.by_owner.get(owner))
            .flatten()
            .map(|&index| (index, &self.endpoints[index].definition))
            .filter(|(_, definition)| {
                let subscription = &definition.subscription;
                subscription.matches(event_type, definition.owner.is_some())
            })
            .map(|(index, definition)| (index, definition.filter.as_ref().unwrap_or(&no_filter)));
        let found = Arc::new(Index::of(members));
        // An owner is data, so the number of keys is not bounded by what is subscribed.
        if self.audiences.len() >= 10_000 {
            self.audiences.clear();
        }
        self.audiences.insert(key, Arc::clone(&found));
        found
    }

    /// Appends the webhooks that an event is for, by their filters: `row` is what these judge. Other than
    /// those of `audience` are not asked, nor are lifetimes.
    pub fn choose(&self, audience: &Index<usize>, row: &str, chosen: &mut Vec<usize>) {
        chosen.extend_from_slice(audience.unfiltered());
        if audience.is_unfiltered() {
            return;
        }
        let row = webhooks_core::json::parse_members(row, audience.wanted());
        let row = row.unwrap_or(serde_json::Value::Null);
        let begin = chosen.len();
        audience.candidates(&row, chosen);
        let mut kept = begin;
        for next in begin..chosen.len() {
            let filter = &self.endpoints[chosen[next]].definition.filter;
            if filter.as_ref().is_some_and(|it| it.matches(&row)) {
                chosen[kept] = chosen[next];
                kept += 1;
            }
        }
        chosen.truncate(kept);
    }

    /// Whether a webhook that is switched on, other than `except`, gets events of this type and owner.
    pub fn has_audience(
        &self,
        event_type: &str,
        owner: Option<&str>,
        except: Option<Uuid>,
    ) -> bool {
        let owners = [None, owner.map(str::to_owned)];
        let owners = &owners[..1 + usize::from(owner.is_some())];
        let mut members = owners
            .iter()
            .filter_map(|owner| self.by_owner.get(owner))
            .flatten()
            .map(|&index| &self.endpoints[index].definition);
        members.any(|definition| {
            definition.active
                && Some(definition.id) != except
                && definition
                    .subscription
                    .matches(event_type, definition.owner.is_some())
        })
    }

    /// The webhook of a test.
    #[must_use]
    pub fn index_of(&self, webhook: Uuid) -> Option<usize> {
        self.by_webhook.get(&webhook).copied()
    }

    /// The definition behind an index of [`Scheduler::audience`].
    #[must_use]
    pub fn definition(&self, index: usize) -> &Definition {
        &self.endpoints[index].definition
    }

    /// Takes in a fresh event for these webhooks (none: only its outbox row is to go).
    pub fn offer(&mut self, outbox: OutboxKey, event: &Arc<Event>, webhooks: &[usize], now: Now) {
        if !self.outbox.insert(outbox.id) {
            return;
        }
        if webhooks.is_empty() {
            self.done.push(Unit {
                outbox: Some(outbox),
                ..Unit::default()
            });
            return;
        }
        self.serial += 1;
        let group = self.groups.insert(Group {
            serial: self.serial,
            outbox,
            event: Arc::clone(event),
            members: Vec::with_capacity(webhooks.len()),
            unfinished: webhooks.len(),
            endings: Vec::new(),
            parked: BTreeMap::new(),
            undecided: Vec::new(),
            created_ms: event.created_ms,
            postponed: 0,
            ended: false,
        });
        self.group_ages.push_back((now.mono_ms, group, self.serial));
        self.fresh += webhooks.len();
        self.fresh_bytes += event.data.len();
        let full = self.is_full();
        let mut waits_long = true;
        for &index in webhooks {
            let seq = self.next_seq(now.unix_ms);
            let state = &mut self.endpoints[index];
            // A test is for the webhook that it names, whatever that one's filter says.
            let is_test = event.event_type == TEST;
            if state.definition.filter.is_none() && !is_test {
                self.groups[group].undecided.push(state.definition.id);
                waits_long = false;
                continue;
            }
            let behind = !is_test
                && (state.backlog
                    || !state.parked.is_empty()
                    || state.ready.len() >= state.prefetch());
            let kept_back = state.definition.keeps_back(&event.event_type);
            if behind || kept_back || (full && !state.ready.is_empty()) {
                waits_long &= kept_back || self.waits_long(index);
                self.park(group, index, seq);
            } else {
                waits_long = false;
                self.admit(group, index, seq);
            }
        }
        if waits_long {
            // The place of an event that waits for long is the queue.
            self.flush(group, now);
        }
    }

    /// A delivery of a group comes into memory.
    fn admit(&mut self, group: usize, index: usize, seq: i64) {
        let (state, it) = (&mut self.endpoints[index], &mut self.groups[group]);
        let key = self.deliveries.insert(Delivery {
            id: webhooks_core::id::delivery(it.event.id, state.definition.id, 0),
            endpoint: index,
            event: Arc::clone(&it.event),
            attempts: 0,
            attempts_before: 0,
            seq,
            created_ms: it.created_ms,
            group: Some(group),
            place: Place::Ready,
            cancelled: false,
            wanted: false,
            refused: false,
            since_ms: it.created_ms,
            hindered: false,
            defects: 0,
        });
        state.members += 1;
        it.members.push(key);
        self.make_ready(key);
    }

    /// A delivery of a group stands behind others of its endpoint.
    pub(super) fn park(&mut self, group: usize, index: usize, seq: i64) {
        self.groups[group].parked.insert(index, seq);
        self.endpoints[index].parked.push_back(group);
    }

    /// What stood behind others comes into memory, when there are none left in the queue. Without this an endpoint
    /// that has fallen behind would get all that follows through the queue, as long as events keep coming.
    ///
    /// The endpoint must be active.
    pub(super) fn admit_parked(&mut self, index: usize) {
        loop {
            let full = self.is_full();
            let state = &mut self.endpoints[index];
            if state.ready.len() >= state.prefetch() || (full && !state.ready.is_empty()) {
                return;
            }
            let Some(group) = state.parked.pop_front() else {
                return;
            };
            let seq = self.groups[group].parked.remove(&index).unwrap_or_default();
            self.admit(group, index, seq);
        }
    }

    pub(super) fn next_seq(&mut self, now_ms: i64) -> i64 {
        self.last_seq = (self.last_seq + 1).max(now_ms.saturating_mul(1_000));
        self.last_seq
    }

    /// A webhook may have been deleted between an attempt and now.
    pub(super) fn cancel_retries(&self, endings: &mut [Ending]) {
        for ending in endings {
            if matches!(ending.how, How::RetryAt(_))
                && !self.by_webhook.contains_key(&ending.webhook)
            {
                ending.how = How::Cancelled;
            }
        }
    }

    /// Writes a group when nothing in memory can end any more.
    pub(super) fn flush_if_over(&mut self, group: usize) {
        let it = &self.groups[group];
        if it.unfinished == it.parked.len() && it.parked.is_empty() {
            let mut it = self.groups.remove(group);
            self.fresh_bytes -= it.event.data.len();
            self.cancel_retries(&mut it.endings);
            self.done.push(Unit {
                outbox: Some(it.outbox),
                endings: it.endings,
                ..Unit::default()
            });
        }
    }

    /// Writes a group as it stands: what has not ended gets a queue row.
    pub(super) fn flush(&mut self, group: usize, now: Now) {
        let mut it = self.groups.remove(group);
        self.fresh_bytes -= it.event.data.len();
        self.cancel_retries(&mut it.endings);
        let mut unit = Unit {
            outbox: Some(it.outbox),
            endings: it.endings,
            ..Unit::default()
        };
        let mut paused = Vec::new();
        for key in it.members {
            if self
                .deliveries
                .get(key)
                .is_none_or(|delivery| delivery.group != Some(group))
            {
                continue;
            }
            let delivery = &mut self.deliveries[key];
            delivery.group = None;
            let seq = delivery.seq;
            let endpoint = &self.endpoints[delivery.endpoint];
            if endpoint.definition.is_paused() {
                paused.push(delivery.endpoint);
            }
            self.by_id.insert(delivery.id, key);
            self.fresh -= 1;
            unit.queued.push(Queued {
                id: delivery.id,
                event: delivery.event.id,
                webhook: self.endpoints[delivery.endpoint].definition.id,
                seq,
                // The backlog of an inactive webhook is not read; what is due is.
                due_ms: (delivery.event.event_type == TEST).then_some(now.unix_ms),
                created_ms: delivery.created_ms,
                undecided: false,
            });
        }
        for (index, seq) in it.parked {
            self.fresh -= 1;
            let state = &mut self.endpoints[index];
            // Groups are written in about the order in which they came, but for those that are written at once.
            let last = state.parked.back() == Some(&group);
            if last {
                state.parked.pop_back();
            } else if let Some(place) = state.parked.iter().position(|&it| it == group) {
                state.parked.remove(place);
            }
            let webhook = state.definition.id;
            let id = webhooks_core::id::delivery(it.event.id, webhook, 0);
            if state.gone {
                unit.endings.push(Ending {
                    id,
                    event: Arc::clone(&it.event),
                    webhook,
                    how: How::Cancelled,
                    recorded: false,
                    attempt: None,
                    attempts: 0,
                    created_ms: it.created_ms,
                    ended_ms: now.unix_ms,
                    seq,
                });
            } else {
                unit.queued.push(Queued {
                    id,
                    event: it.event.id,
                    webhook,
                    seq,
                    due_ms: (it.event.event_type == TEST).then_some(now.unix_ms),
                    created_ms: it.created_ms,
                    undecided: false,
                });
            }
            self.drop_if_unused(index);
        }
        for webhook in it.undecided {
            self.fresh -= 1;
            // Of one that is gone nobody will ever say whether it wanted the event.
            if self.by_webhook.contains_key(&webhook) {
                unit.queued.push(Queued {
                    id: webhooks_core::id::delivery(it.event.id, webhook, 0),
                    event: it.event.id,
                    webhook,
                    seq: self.next_seq(now.unix_ms),
                    due_ms: None,
                    created_ms: it.created_ms,
                    undecided: true,
                });
            }
        }
        self.done.push(unit);
        // Now that they have rows.
        for index in paused {
            self.give_back(index);
        }
    }
}
