//! Postgres snapshots as text, and which outbox rows have become visible between two of them.

use std::collections::VecDeque;
use uuid::Uuid;

/// What `pg_current_snapshot()` says: `xmin:xmax:xip,xip,…`, of top-level transactions.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Snapshot {
    /// All transactions before this one have ended.
    pub xmin: u64,
    /// No transaction from this one on had ended.
    pub xmax: u64,
    /// Those between that were in progress, ascending.
    pub in_progress: Vec<u64>,
}

impl Snapshot {
    /// Reads the text form; `None` if it is something else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let xmin = parts.next()?.parse().ok()?;
        let xmax = parts.next()?.parse().ok()?;
        let list = parts.next()?;
        if parts.next().is_some() {
            return None;
        }
        let mut in_progress = Vec::new();
        for xid in list.split(',').filter(|xid| !xid.is_empty()) {
            in_progress.push(xid.parse().ok()?);
        }
        in_progress.sort_unstable();
        Some(Self {
            xmin,
            xmax,
            in_progress,
        })
    }

    /// The same, with a transaction among those in progress. The one that takes a snapshot does not list itself, and
    /// looks as if it had ended as soon as a later one has.
    #[must_use]
    pub fn with_in_progress(mut self, xid: u64) -> Self {
        if self.sees(xid) && xid >= self.xmin {
            let place = self.in_progress.partition_point(|&it| it < xid);
            self.in_progress.insert(place, xid);
        }
        self
    }

    /// Whether the transaction had ended when the snapshot was taken.
    #[must_use]
    pub fn sees(&self, xid: u64) -> bool {
        xid < self.xmin || (xid < self.xmax && self.in_progress.binary_search(&xid).is_err())
    }
}

impl std::fmt::Display for Snapshot {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}:{}:", self.xmin, self.xmax)?;
        for (place, xid) in self.in_progress.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            write!(out, "{comma}{xid}")?;
        }
        Ok(())
    }
}

/// A stretch of the outbox to read: keys behind `after`, up to transaction `until`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stretch {
    /// The key to go on after.
    pub after: (u64, Uuid),
    /// The last transaction that belongs to it.
    pub until: u64,
}

/// Stretches so near to each other, in transactions, are read as one: while many write at once, those in progress lie
/// among those that have just ended.
const NEAR: u64 = 256;

/// Adds what became visible between two snapshots to these stretches.
///
/// What is visible under a snapshot and was not under the one before has a transaction that is not below the old `xmax`,
/// or was in progress then. To read more than that does no harm, since a row that was read is known until it is
/// deleted; to read less would lose an event.
fn add_newly_visible(stretches: &mut VecDeque<Stretch>, before: Option<&Snapshot>, now: &Snapshot) {
    let mut add = |from: u64, until: u64| {
        if let Some(last) = stretches.back_mut()
            && from.saturating_sub(last.until) <= NEAR
        {
            last.until = until;
            return;
        }
        stretches.push_back(Stretch {
            after: (from, Uuid::nil()),
            until,
        });
    };
    let Some(before) = before else {
        add(0, u64::MAX);
        return;
    };
    for &xid in before.in_progress.iter().filter(|&&xid| now.sees(xid)) {
        add(xid, xid);
    }
    if now.xmax > before.xmax {
        add(before.xmax, now.xmax - 1);
    }
}

/// Stretches that are kept for looking ahead. Those beyond are forgotten, and read in order.
const AHEAD_MOST: usize = 32;

/// Where reading the outbox stands: in order, and ahead of that.
///
/// All rows are read in order. While many of them wait to be read, rows that became visible later are looked at too:
/// for events that need not wait behind the others. Whatever the look ahead passes over, or forgets, is read in its turn.
#[derive(Clone, Debug, Default)]
pub struct Position {
    /// The snapshot up to which there are stretches.
    last: Option<Snapshot>,
    stretches: VecDeque<Stretch>,
    /// Whether there has been a snapshot since, of which there are no stretches yet.
    behind: bool,
    /// The snapshot that was taken in last.
    latest: Option<Snapshot>,
    /// What to look at ahead, the oldest first.
    ahead: VecDeque<Stretch>,
}

impl Position {
    /// Nothing has been read.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in the snapshot under which the next read happens. What is newly visible becomes stretches when those from
    /// before have been read: else there would be ever more of them where much is written.
    pub fn advance(&mut self, now: Snapshot) {
        let mut newer = VecDeque::new();
        add_newly_visible(&mut newer, self.latest.as_ref(), &now);
        self.ahead.append(&mut newer);
        while self.ahead.len() > AHEAD_MOST {
            self.ahead.pop_front();
        }
        self.latest = Some(now.clone());
        self.behind = !self.stretches.is_empty();
        if !self.behind {
            add_newly_visible(&mut self.stretches, self.last.as_ref(), &now);
            self.last = Some(now);
        }
        self.forget_ahead_if_read();
    }

    /// What has been read in order need not be looked at ahead.
    fn forget_ahead_if_read(&mut self) {
        if !self.has_more() {
            self.ahead.clear();
        }
    }

    /// Asks for rows whose transactions are no guide: from a restore, COPY or replication.
    pub fn sweep(&mut self) {
        if let (Some(last), true) = (&self.last, self.stretches.is_empty()) {
            let (xmin, xmax) = (last.xmin, last.xmax);
            let mut add = |from, until| {
                self.stretches.push_back(Stretch {
                    after: (from, Uuid::nil()),
                    until,
                });
            };
            if xmin > 0 {
                add(0, xmin - 1);
            }
            add(xmax, u64::MAX);
        }
    }

    /// The transaction that was to come when the last snapshot was taken.
    #[must_use]
    pub fn next_xid(&self) -> u64 {
        self.latest.as_ref().map_or(u64::MAX, |it| it.xmax)
    }

    /// The stretch to read next.
    #[must_use]
    pub fn next(&self) -> Option<Stretch> {
        self.stretches.front().copied()
    }

    /// The first stretch has been read up to this key; `None`: to its end.
    pub fn read_to(&mut self, key: Option<(u64, Uuid)>) {
        match key {
            Some(key) => {
                if let Some(stretch) = self.stretches.front_mut() {
                    stretch.after = key;
                }
            }
            None => {
                self.stretches.pop_front();
            }
        }
        self.forget_ahead_if_read();
    }

    /// Whether there is more to read, or a new snapshot to be taken in.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.behind || !self.stretches.is_empty()
    }

    /// The stretch to look at ahead: of the newest.
    #[must_use]
    pub fn next_ahead(&self) -> Option<Stretch> {
        self.ahead.back().copied()
    }

    /// The stretch of [`Position::next_ahead`] has been looked at up to the last of these keys, the first and the last of
    /// a page; `None`: to its end. A transaction that fills a page is passed over: others need not wait for its rows.
    pub fn looked_to(&mut self, page: Option<((u64, Uuid), (u64, Uuid))>) {
        let (Some(stretch), Some((first, last))) = (self.ahead.back_mut(), page) else {
            self.ahead.pop_back();
            return;
        };
        let alone = first.0 == last.0;
        stretch.after = if alone { (last.0, Uuid::max()) } else { last };
        if alone && last.0 >= stretch.until {
            self.ahead.pop_back();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_transaction_of_a_snapshot_is_in_progress() {
        let with = |text: &str, xid| {
            Snapshot::parse(text)
                .unwrap()
                .with_in_progress(xid)
                .to_string()
        };
        assert_eq!(with("10:20:14,15", 10), "10:20:10,14,15");
        assert_eq!(with("9:20:9,15", 12), "9:20:9,12,15");
        for (text, xid) in [
            ("10:20:10,14", 14),
            ("10:20:10", 20),
            ("10:10:", 10),
            ("10:20:10", 9),
        ] {
            assert_eq!(with(text, xid), text, "{xid}");
        }
    }

    #[test]
    fn a_snapshot_is_read_and_judges_transactions() {
        let snapshot = Snapshot::parse("10:20:10,14,15").unwrap();
        assert_eq!(
            snapshot,
            Snapshot {
                xmin: 10,
                xmax: 20,
                in_progress: vec![10, 14, 15]
            }
        );
        assert!(snapshot.sees(9) && snapshot.sees(11) && snapshot.sees(19));
        assert!(
            !snapshot.sees(10) && !snapshot.sees(14) && !snapshot.sees(20) && !snapshot.sees(99)
        );
        assert_eq!(
            Snapshot::parse("5:5:").unwrap(),
            Snapshot {
                xmin: 5,
                xmax: 5,
                in_progress: vec![]
            }
        );
        for bad in ["", "1", "1:2", "a:2:", "1:2:x", "1:2:3:4"] {
            assert_eq!(Snapshot::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_first_read_is_of_everything() {
        let mut position = Position::new();
        position.advance(Snapshot::parse("10:20:10").unwrap());
        assert_eq!(
            position.next(),
            Some(Stretch {
                after: (0, Uuid::nil()),
                until: u64::MAX,
            })
        );
        position.read_to(None);
        assert!(!position.has_more());
    }

    #[test]
    fn late_committers_are_found_and_nobody_waits_for_those_in_progress() {
        let mut position = Position::new();
        position.advance(Snapshot::parse("10:2000:10,1400").unwrap());
        position.read_to(None);
        position.advance(Snapshot::parse("1400:2500:1400,2200").unwrap());
        assert_eq!(stretches(&mut position), [(10, 10), (2000, 2499)]);
        position.advance(Snapshot::parse("2200:2500:2200").unwrap());
        assert_eq!(stretches(&mut position), [(1400, 1400)]);
    }

    fn stretches(position: &mut Position) -> Vec<(u64, u64)> {
        std::iter::from_fn(|| {
            let next = position.next()?;
            position.read_to(None);
            Some((next.after.0, next.until))
        })
        .collect()
    }

    #[test]
    fn many_writers_at_once_make_one_stretch() {
        let mut position = Position::new();
        position.advance(Snapshot::parse("1000:1100:1000,1003,1007,1090").unwrap());
        position.read_to(None);
        position.advance(Snapshot::parse("1090:1200:1090,1150").unwrap());
        assert_eq!(stretches(&mut position), [(1000, 1199)]);
    }

    #[test]
    fn what_comes_while_stretches_are_left_waits_for_them_and_is_not_lost() {
        let mut position = Position::new();
        position.advance(Snapshot::parse("10:20:10").unwrap());
        for xmax in 21..30 {
            position.advance(Snapshot::parse(&format!("{xmax}:{xmax}:")).unwrap());
            assert_eq!(position.next_xid(), xmax);
        }
        assert_eq!(stretches(&mut position), [(0, u64::MAX)]);
        assert!(position.has_more());
        position.advance(Snapshot::parse("30:30:").unwrap());
        assert_eq!(stretches(&mut position), [(10, 29)]);
        assert!(!position.has_more());
    }

    /// A position that has read a page of much, and what came next.
    fn behind(later: &[&str]) -> Position {
        let mut position = Position::new();
        position.advance(Snapshot::parse("10:20:").unwrap());
        position.read_to(Some((15, Uuid::from_u128(7))));
        position.looked_to(Some(((1, Uuid::nil()), (15, Uuid::from_u128(7)))));
        for snapshot in later {
            position.advance(Snapshot::parse(snapshot).unwrap());
        }
        position
    }

    fn looks(position: &mut Position) -> Vec<(u64, u64)> {
        std::iter::from_fn(|| {
            let next = position.next_ahead()?;
            position.looked_to(None);
            Some((next.after.0, next.until))
        })
        .collect()
    }

    #[test]
    fn what_comes_while_much_is_left_is_looked_at_first_and_the_newest_of_it_before_the_rest() {
        let mut position = behind(&["20:30:25", "25:2000:25"]);
        assert_eq!(looks(&mut position), [(30, 1999), (20, 29), (15, u64::MAX)]);
        assert_eq!(position.next().map(|it| it.after.0), Some(15), "in order");
    }

    #[test]
    fn a_late_committer_is_looked_at_too() {
        let mut position = behind(&["20:30:25", "30:2000:"]);
        assert_eq!(looks(&mut position), [(25, 1999), (20, 29), (15, u64::MAX)]);
    }

    #[test]
    fn a_transaction_that_fills_a_page_is_passed_over() {
        let mut position = behind(&["30:30:"]);
        let key = |xid, id| (xid, Uuid::from_u128(id));
        position.looked_to(Some((key(20, 1), key(22, 5))));
        assert_eq!(position.next_ahead().unwrap().after, key(22, 5));
        position.looked_to(Some((key(22, 6), key(22, 900))));
        assert_eq!(position.next_ahead().unwrap().after, (22, Uuid::max()));
        position.looked_to(Some((key(29, 1), key(29, 900))));
        assert_eq!(
            position.next_ahead().unwrap().until,
            u64::MAX,
            "the one before"
        );
    }

    #[test]
    fn when_all_has_been_read_in_order_there_is_nothing_ahead_of_it() {
        let mut position = behind(&["30:30:"]);
        position.read_to(None);
        assert!(position.has_more(), "what came since");
        position.advance(Snapshot::parse("40:40:").unwrap());
        assert_eq!(
            position.next().map(|it| (it.after.0, it.until)),
            Some((20, 39))
        );
        position.read_to(None);
        assert!(!position.has_more());
        assert_eq!(position.next_ahead(), None);
    }

    #[test]
    fn stretches_ahead_are_few_and_those_that_are_forgotten_are_read_in_order() {
        let mut position = behind(&[]);
        for xmax in 21..1_000 {
            position.advance(Snapshot::parse(&format!("{xmax}:{xmax}:")).unwrap());
        }
        assert_eq!(looks(&mut position).len(), AHEAD_MOST);
        position.read_to(None);
        position.advance(Snapshot::parse("1000:1000:").unwrap());
        assert_eq!(stretches(&mut position), [(20, 999)]);
    }

    proptest::proptest! {
        /// Whatever the order of commits: each transaction lies in a stretch after the snapshot that first sees it.
        #[test]
        fn every_transaction_is_read_once_it_is_visible(
            commits in proptest::collection::vec((0_u64..2_000, 0_usize..3), 1..120)
        ) {
            let mut position = Position::new();
            let (mut done, mut read) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
            let mut started = 0_u64;
            let snapshot = |done: &std::collections::BTreeSet<u64>, started: u64| {
                let in_progress: Vec<u64> = (0..started).filter(|xid| !done.contains(xid)).collect();
                Snapshot { xmin: in_progress.first().copied().unwrap_or(started), xmax: started, in_progress }
            };
            position.advance(snapshot(&done, started));
            position.read_to(None);
            for (commit, reads) in commits {
                started = started.max(commit + 1);
                done.insert(commit);
                let now = snapshot(&done, started);
                position.advance(now.clone());
                for _ in 0..reads {
                    let Some(stretch) = position.next() else { break };
                    read.extend(done.iter().copied().filter(|&xid| xid >= stretch.after.0 && xid <= stretch.until));
                    position.read_to(None);
                }
                position.looked_to(None);
            }
            // Now nothing more is committed, and all is read: what the position asks for, and one look.
            position.advance(snapshot(&done, started));
            while position.has_more() {
                match position.next() {
                    None => position.advance(snapshot(&done, started)),
                    Some(stretch) => {
                        read.extend(done.iter().copied().filter(|&xid| xid >= stretch.after.0 && xid <= stretch.until));
                        position.read_to(None);
                    }
                }
            }
            proptest::prop_assert!(done.iter().all(|xid| read.contains(xid)), "{done:?} {read:?}");
        }
    }
}
