//! Connections that wait for their next request. Each delivery thread has its own; what comes last is taken first, and when
//! there is no more room, the one that has waited longest goes.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Where a connection leads, and by which rules it was made.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    /// Of the configuration.
    pub(crate) generation: u64,
    pub(crate) tls: bool,
    /// Host and port as the URL spells them.
    pub(crate) authority: String,
}

/// A connection without an announcement. Node, and servers in Python, close theirs after 5 s, others after 15 s and more.
const UNANNOUNCED: Duration = Duration::from_secs(4);
/// What a server announces is kept less this, for the way of the request.
const MARGIN: Duration = Duration::from_secs(1);
/// No connection lives longer.
const LIFE: Duration = Duration::from_secs(60);

/// How often those that have waited too long are looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// Until when a connection may wait that was made `born` and has just answered; `None`: it is not to be kept.
///
/// `announced` is N of `Keep-Alive: timeout=N`.
pub(crate) fn usable_until(
    now: Instant,
    born: Instant,
    announced: Option<Duration>,
) -> Option<Instant> {
    let idle = match announced {
        Some(announced) => announced.saturating_sub(MARGIN),
        None => UNANNOUNCED,
    };
    let until = (now + idle.min(LIFE)).min(born + LIFE);
    (until > now).then_some(until)
}

/// N of the value of a `Keep-Alive` header that says `timeout=N`, whatever else it says.
pub(crate) fn announced(value: &str) -> Option<Duration> {
    value
        .split(',')
        .filter_map(|part| part.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("timeout"))
        .and_then(|(_, seconds)| seconds.trim().trim_matches('"').parse::<u32>().ok())
        .map(|seconds| Duration::from_secs(seconds.into()))
}

#[derive(Debug)]
struct Waiting<C> {
    /// In the order in which they came, over all places.
    turn: u64,
    until: Instant,
    peer: IpAddr,
    connection: C,
}

/// The connections of one thread that wait.
#[derive(Debug)]
pub(crate) struct Kept<C> {
    places: HashMap<Place, Vec<Waiting<C>>>,
    turns: BTreeMap<u64, Place>,
    next: u64,
    most: usize,
    swept: Option<Instant>,
}

impl<C> Kept<C> {
    /// Keeps at most `most`.
    pub(crate) fn new(most: usize) -> Kept<C> {
        Kept {
            places: HashMap::new(),
            turns: BTreeMap::new(),
            next: 0,
            most,
            swept: None,
        }
    }

    /// The connection to this place that came last, if it leads to one of these addresses. Whatever else is found there on
    /// the way is closed.
    pub(crate) fn take(&mut self, now: Instant, place: &Place, to: &[IpAddr]) -> Option<C> {
        let waiting = self.places.get_mut(place)?;
        let mut found = None;
        while let Some(last) = waiting.pop() {
            self.turns.remove(&last.turn);
            if last.until > now && to.contains(&last.peer) {
                found = Some(last.connection);
                break;
            }
        }
        if waiting.is_empty() {
            self.places.remove(place);
        }
        found
    }

    /// Keeps a connection. Returns the one that has to go for it.
    #[must_use]
    pub(crate) fn put(
        &mut self,
        place: Place,
        peer: IpAddr,
        until: Instant,
        connection: C,
    ) -> Option<C> {
        if self.most == 0 {
            return Some(connection);
        }
        let gone = if self.turns.len() >= self.most {
            self.oldest()
        } else {
            None
        };
        let turn = self.next;
        self.next += 1;
        let waiting = Waiting {
            turn,
            until,
            peer,
            connection,
        };
        self.turns.insert(turn, place.clone());
        self.places.entry(place).or_default().push(waiting);
        gone
    }

    fn oldest(&mut self) -> Option<C> {
        let (turn, place) = self.turns.pop_first()?;
        let waiting = self.places.get_mut(&place)?;
        let position = waiting.iter().position(|it| it.turn == turn)?;
        let gone = waiting.remove(position).connection;
        if waiting.is_empty() {
            self.places.remove(&place);
        }
        Some(gone)
    }

    /// Closes all to one place.
    pub(crate) fn forget(&mut self, place: &Place) {
        for gone in self.places.remove(place).unwrap_or_default() {
            self.turns.remove(&gone.turn);
        }
    }

    /// Closes all.
    pub(crate) fn clear(&mut self) {
        self.places.clear();
        self.turns.clear();
    }

    /// Closes those that have waited too long, if it was not done in the last second. Whether any is left.
    pub(crate) fn sweep(&mut self, now: Instant) -> bool {
        if self.swept.is_none_or(|swept| now >= swept + SWEEP) {
            self.swept = Some(now);
            let turns = &mut self.turns;
            self.places.retain(|_, waiting| {
                waiting.retain(|it| {
                    let stays = it.until > now;
                    if !stays {
                        turns.remove(&it.turn);
                    }
                    stays
                });
                !waiting.is_empty()
            });
        }
        !self.turns.is_empty()
    }

    /// How many wait.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.turns.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));
    const SECOND: Duration = Duration::from_secs(1);

    fn place(host: &str) -> Place {
        Place {
            generation: 1,
            tls: false,
            authority: host.to_owned(),
        }
    }

    #[test]
    fn a_server_that_announces_its_limit_is_believed_less_a_second() {
        let born = Instant::now();
        let until = |now, announced: Option<u64>| {
            usable_until(now, born, announced.map(Duration::from_secs)).map(|it| it - born)
        };
        assert_eq!(until(born, None), Some(4 * SECOND));
        assert_eq!(until(born, Some(0)), None);
        assert_eq!(until(born, Some(1)), None);
        assert_eq!(until(born, Some(2)), Some(SECOND));
        assert_eq!(until(born, Some(15)), Some(14 * SECOND));
        assert_eq!(until(born, Some(u64::from(u32::MAX))), Some(60 * SECOND));
        assert_eq!(until(born + 59 * SECOND, None), Some(60 * SECOND));
        assert_eq!(until(born + 60 * SECOND, None), None);
    }

    #[test]
    fn the_limit_is_found_whatever_stands_beside_it() {
        let seconds = |value| announced(value).map(|it| it.as_secs());
        assert_eq!(seconds("timeout=5"), Some(5));
        assert_eq!(seconds("max=100, Timeout = 7"), Some(7));
        assert_eq!(seconds("timeout=\"8\""), Some(8));
        assert_eq!(seconds("timeout=5.5"), None);
        assert_eq!(seconds("timeout=-1"), None);
        assert_eq!(seconds("max=100"), None);
        assert_eq!(seconds(""), None);
    }

    #[test]
    fn what_comes_last_is_taken_first_and_what_has_waited_longest_goes() {
        let now = Instant::now();
        let until = now + SECOND;
        let mut kept = Kept::new(3);
        for (number, host) in ["a", "b", "a"].into_iter().enumerate() {
            assert_eq!(kept.put(place(host), HERE, until, number), None);
        }
        assert_eq!(kept.put(place("c"), HERE, until, 3), Some(0));
        assert_eq!(kept.put(place("c"), HERE, until, 4), Some(1));
        assert_eq!(kept.count(), 3);
        assert_eq!(kept.take(now, &place("b"), &[HERE]), None);
        assert_eq!(kept.take(now, &place("c"), &[HERE]), Some(4));
        assert_eq!(kept.take(now, &place("c"), &[HERE]), Some(3));
        assert_eq!(kept.take(now, &place("a"), &[HERE]), Some(2));
        assert_eq!(kept.count(), 0);
    }

    #[test]
    fn a_connection_to_an_address_that_the_name_has_no_more_is_closed() {
        let now = Instant::now();
        let until = now + SECOND;
        let mut kept = Kept::new(9);
        assert_eq!(kept.put(place("a"), HERE, until, 1), None);
        assert_eq!(kept.put(place("a"), THERE, until, 2), None);
        assert_eq!(kept.take(now, &place("a"), &[HERE]), Some(1));
        assert_eq!(kept.count(), 0);
    }

    #[test]
    fn what_has_waited_too_long_is_not_taken_and_is_swept_out() {
        let now = Instant::now();
        let mut kept = Kept::new(9);
        assert_eq!(kept.put(place("a"), HERE, now + SECOND, 1), None);
        assert_eq!(kept.put(place("b"), HERE, now + 2 * SECOND, 2), None);
        assert_eq!(kept.put(place("b"), HERE, now + 3 * SECOND, 3), None);
        assert!(kept.sweep(now));
        assert_eq!(kept.take(now + SECOND, &place("a"), &[HERE]), None);
        assert!(kept.sweep(now + 2 * SECOND));
        assert_eq!(kept.count(), 1);
        assert!(!kept.sweep(now + 3 * SECOND));
        assert_eq!(kept.count(), 0);
    }

    #[test]
    fn a_place_is_forgotten_alone() {
        let now = Instant::now();
        let mut kept = Kept::new(9);
        for (number, host) in ["a", "b", "a"].into_iter().enumerate() {
            assert_eq!(kept.put(place(host), HERE, now + SECOND, number), None);
        }
        kept.forget(&place("a"));
        assert_eq!(kept.count(), 1);
        assert_eq!(kept.take(now, &place("b"), &[HERE]), Some(1));
        assert_eq!(kept.oldest(), None);
    }
}
