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

/// Where reading the outbox stands.
///
/// What is visible under a snapshot and was not under the one before has a transaction that is not below
/// the old `xmax`, or was in progress then. To read more than that does no harm, since a row that was read
/// is known until it is deleted; to read less would lose an event.
#[derive(Clone, Debug, Default)]
pub struct Position {
    /// The snapshot up to which there are stretches.
    last: Option<Snapshot>,
    stretches: VecDeque<Stretch>,
    /// Whether there has been a snapshot since, of which there are no stretches yet.
    behind: bool,
    next_xid: Option<u64>,
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
        self.next_xid = Some(now.xmax);
        self.behind = !self.stretches.is_empty();
        if self.behind {
            return;
        }
        match self.last.take() {
            None => self.add(0, u64::MAX),
            Some(last) => {
                for &xid in last.in_progress.iter().filter(|&&xid| now.sees(xid)) {
                    self.add(xid, xid);
                }
                if now.xmax > last.xmax {
                    self.add(last.xmax, now.xmax - 1);
                }
            }
        }
        self.last = Some(now);
    }

    /// Adds a stretch behind those there are.
    fn add(&mut self, from: u64, until: u64) {
        if let Some(before) = self.stretches.back_mut()
            && from.saturating_sub(before.until) <= NEAR
        {
            before.until = until;
            return;
        }
        self.stretches.push_back(Stretch {
            after: (from, Uuid::nil()),
            until,
        });
    }

    /// Asks for rows whose transactions are no guide: from a restore, COPY or replication.
    pub fn sweep(&mut self) {
        if let (Some(last), true) = (&self.last, self.stretches.is_empty()) {
            let (xmin, xmax) = (last.xmin, last.xmax);
            if xmin > 0 {
                self.add(0, xmin - 1);
            }
            self.add(xmax, u64::MAX);
        }
    }

    /// The transaction that was to come when the last snapshot was taken.
    #[must_use]
    pub fn next_xid(&self) -> u64 {
        self.next_xid.unwrap_or(u64::MAX)
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
    }

    /// Whether there is more to read, or a new snapshot to be taken in.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.behind || !self.stretches.is_empty()
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
