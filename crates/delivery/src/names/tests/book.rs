use tokio::sync::oneshot::Receiver;
use tokio::sync::oneshot::error::TryRecvError;

use super::super::book::{Asked, Book, MAX_NAMES, MAX_QUEUED};
use super::super::entry::Reply;
use super::super::places::{PLACES, Query, Standing};
use super::*;
use crate::failure::Failure;

/// A book, the time, and the look-ups that run.
struct Desk {
    book: Book,
    now: Instant,
    running: Vec<Query>,
}

impl Desk {
    fn new() -> Desk {
        Desk {
            book: Book::default(),
            now: start(),
            running: Vec::new(),
        }
    }

    fn later(&mut self, by: Duration) {
        self.now += by;
    }

    /// Asks, and starts whatever may run.
    fn ask(&mut self, name: &str, owner: u64) -> Asked {
        let asked = self.book.ask(name, owner, self.now);
        self.start();
        asked
    }

    fn start(&mut self) {
        while let Some(query) = self.book.next(self.now) {
            self.running.push(query);
        }
    }

    /// Asks for a name that is not known.
    fn wait(&mut self, name: &str, owner: u64) -> Receiver<Reply> {
        match self.ask(name, owner) {
            Asked::Wait(reply) => reply,
            other => panic!("{name}: {other:?}"),
        }
    }

    fn known(&mut self, name: &str) -> Reply {
        self.known_to(name, 1)
    }

    fn known_to(&mut self, name: &str, owner: u64) -> Reply {
        match self.ask(name, owner) {
            Asked::Known(reply) => reply,
            other => panic!("{name}: {other:?}"),
        }
    }

    fn runs(&self, name: &str) -> bool {
        self.running.iter().any(|query| &*query.name == name)
    }

    fn land(&mut self, name: &str, found: Found) {
        let at = self.running.iter().position(|query| &*query.name == name);
        let query = self
            .running
            .remove(at.unwrap_or_else(|| panic!("{name} runs")));
        self.book.land(&query, found, self.now, self.now);
        self.start();
    }

    /// Has a name looked up, with this end.
    fn learn(&mut self, name: &str, owner: u64, found: Found) -> Reply {
        let mut reply = self.wait(name, owner);
        self.land(name, found);
        reply.try_recv().unwrap()
    }

    /// Asks for 200 names of one owner, and keeps waiting.
    fn ask_many(&mut self, owner: u64, name: impl Fn(usize) -> String) -> Vec<Receiver<Reply>> {
        (0..200).map(|n| self.wait(&name(n), owner)).collect()
    }
}

#[test]
fn a_use_refreshes_ahead_and_nobody_waits() {
    let mut desk = Desk::new();
    assert_eq!(desk.learn("a.example", 1, found(1)), Ok(addresses(1)));
    desk.later(millis(19_999));
    assert_eq!(desk.known("a.example"), Ok(addresses(1)));
    assert!(!desk.runs("a.example"));
    desk.later(millis(1));
    assert_eq!(desk.known("a.example"), Ok(addresses(1)));
    assert!(desk.runs("a.example"));
    desk.later(seconds(5));
    assert_eq!(
        desk.known("a.example"),
        Ok(addresses(1)),
        "while it is looked up"
    );
    desk.land("a.example", found(2));
    assert_eq!(desk.known("a.example"), Ok(addresses(2)));
}

#[test]
fn after_a_pause_in_its_use_the_refresh_is_waited_for_briefly() {
    let mut desk = Desk::new();
    desk.learn("a.example", 1, found(1)).unwrap();
    desk.later(seconds(30));
    for waited in [0, 60] {
        desk.later(millis(waited));
        match desk.ask("a.example", 1) {
            Asked::WaitBriefly { at_most, stale, .. } => {
                assert_eq!(at_most, millis(100 - waited));
                assert_eq!(stale, addresses(1));
            }
            other => panic!("{other:?}"),
        }
    }
    desk.later(millis(41));
    assert_eq!(
        desk.known("a.example"),
        Ok(addresses(1)),
        "it has been waited for"
    );
}

#[test]
fn whoever_waits_briefly_hears_what_the_refresh_found() {
    for (end, expected) in [
        (found(2), Ok(addresses(2))),
        (ABSENT, Err(Failure::NameNotFound)),
        (UNANSWERED, Ok(addresses(1))),
        (Err(NoAddress::Unable), Ok(addresses(1))),
    ] {
        let mut desk = Desk::new();
        desk.learn("a.example", 1, found(1)).unwrap();
        desk.later(seconds(31));
        let Asked::WaitBriefly { mut reply, .. } = desk.ask("a.example", 1) else {
            panic!("nothing to wait for");
        };
        desk.land("a.example", end);
        assert_eq!(reply.try_recv().unwrap(), expected);
    }
}

#[test]
fn a_resolver_that_fails_is_asked_each_second_and_what_is_known_serves_for_an_hour() {
    let mut desk = Desk::new();
    desk.learn("a.example", 1, found(1)).unwrap();
    desk.later(seconds(20));
    let mut refreshes = 0;
    for _ in 0..3579 * 4 {
        assert_eq!(desk.known("a.example"), Ok(addresses(1)));
        if desk.runs("a.example") {
            refreshes += 1;
            desk.land("a.example", UNANSWERED);
        }
        desk.later(millis(250));
    }
    assert!((3570..=3590).contains(&refreshes), "{refreshes}");
    desk.later(seconds(1));
    assert_eq!(
        desk.learn("a.example", 1, UNANSWERED),
        Err(Failure::NameNotFound)
    );
}

#[test]
fn a_name_that_is_gone_is_gone_at_once() {
    let mut desk = Desk::new();
    desk.learn("a.example", 1, found(1)).unwrap();
    desk.later(seconds(25));
    desk.known("a.example").unwrap();
    desk.land("a.example", ABSENT);
    assert_eq!(desk.known("a.example"), Err(Failure::NameNotFound));
    desk.later(millis(1999));
    assert_eq!(desk.known("a.example"), Err(Failure::NameNotFound));
    desk.later(millis(1));
    assert_eq!(
        desk.learn("a.example", 1, found(2)),
        Ok(addresses(2)),
        "asked anew"
    );
}

#[test]
fn no_addresses_are_absence() {
    let mut desk = Desk::new();
    assert_eq!(
        desk.learn("a.example", 1, Ok(vec![])),
        Err(Failure::NameNotFound)
    );
    assert_eq!(desk.known("a.example"), Err(Failure::NameNotFound));
}

#[test]
fn no_answer_is_not_remembered_as_absence() {
    let mut desk = Desk::new();
    assert_eq!(
        desk.learn("a.example", 1, UNANSWERED),
        Err(Failure::NameNotFound)
    );
    assert_eq!(desk.learn("a.example", 1, found(1)), Ok(addresses(1)));
}

#[test]
fn a_lookup_for_which_the_machine_lacks_something_is_nobodys_fault() {
    let mut desk = Desk::new();
    let reply = desk.learn("a.example", 1, Err(NoAddress::Unable));
    assert!(reply.unwrap_err().is_ours());
}

#[test]
fn dead_names_of_one_owner_delay_no_other_owner() {
    let one_domain: fn(usize) -> String = |n| format!("n{n}.dead.co.uk");
    let many_domains: fn(usize) -> String = |n| format!("www.dead{n}.co.uk");
    for dead in [one_domain, many_domains] {
        let mut desk = Desk::new();
        desk.learn("known.example", 2, found(1)).unwrap();
        desk.later(seconds(25));
        let _waiting = desk.ask_many(1, dead);
        let hanging = desk.running.len();
        assert!(hanging > 0);
        let _reply = desk.wait("new.co.uk", 3);
        assert!(desk.runs("new.co.uk"), "the first name of a new owner");
        desk.known("known.example").unwrap();
        assert!(desk.runs("known.example"));
        // Not now, and not later: for an hour they hang, fail, and are asked for again.
        for round in 0..20 {
            desk.later(seconds(180));
            for name in desk
                .running
                .iter()
                .map(|query| Arc::clone(&query.name))
                .collect::<Vec<_>>()
            {
                desk.land(&name, UNANSWERED);
            }
            let _reply = desk.wait(&format!("new{round}.example"), 4 + round);
            assert!(desk.runs(&format!("new{round}.example")));
        }
    }
}

#[test]
fn a_domain_that_hangs_does_not_hold_its_owners_other_names() {
    let mut desk = Desk::new();
    let _waiting = desk.ask_many(1, |n| format!("n{n}.dead.co.uk"));
    let _reply = desk.wait("neighbour.co.uk", 1);
    assert!(desk.runs("neighbour.co.uk"));
}

#[test]
fn one_owners_names_under_a_domain_do_not_hold_another_owners() {
    let mut desk = Desk::new();
    let _waiting =
        [1, 2].map(|owner| desk.ask_many(owner, |n| format!("n{n}-{owner}.shared.example")));
    let _reply = desk.wait("other.shared.example", 3);
    assert!(desk.runs("other.shared.example"));
}

#[test]
fn a_domain_of_many_owners_leaves_room_for_other_domains() {
    let mut desk = Desk::new();
    let _waiting: Vec<_> = (0..300)
        .map(|owner| desk.wait(&format!("n{owner}.shared.example"), owner))
        .collect();
    let _reply = desk.wait("other.example", 1000);
    assert!(desk.runs("other.example"));
}

#[test]
fn many_owners_with_many_dead_names_do_not_delay_names_that_have_answered() {
    let mut desk = Desk::new();
    let _known: Vec<_> = (0..8)
        .map(|n| {
            desk.learn(&format!("known{n}.example"), 1000 + n, found(1))
                .unwrap()
        })
        .collect();
    desk.later(seconds(25));
    let _waiting: Vec<_> = (0..40)
        .flat_map(|owner| (0..10).map(move |n| (owner, n)))
        .map(|(owner, n)| desk.wait(&format!("dead{n}.owner{owner}.example"), owner))
        .collect();
    assert_eq!(desk.running.len(), PLACES / 2, "the other half is kept");
    for n in 0..8 {
        let name = format!("known{n}.example");
        desk.known_to(&name, 1000 + n).unwrap();
        assert!(desk.runs(&name));
    }
}

#[test]
fn names_that_did_not_answer_share_few_places() {
    let mut desk = Desk::new();
    let dead: Vec<_> = (0..40).map(|n| (format!("dead{n}.example"), n)).collect();
    for (name, owner) in &dead {
        desk.learn(name, *owner, UNANSWERED).unwrap_err();
    }
    let _waiting: Vec<_> = dead
        .iter()
        .map(|(name, owner)| desk.wait(name, *owner))
        .collect();
    assert_eq!(desk.running.len(), 4);
    assert!(
        desk.running
            .iter()
            .all(|query| query.standing == Standing::Dead)
    );
    // A new owner finds more than half of the places for new names.
    let _replies: Vec<_> = (0..5)
        .map(|n| desk.wait(&format!("new{n}.example"), 1000))
        .collect();
    assert!((0..5).all(|n| desk.runs(&format!("new{n}.example"))));
}

#[test]
fn names_that_answered_once_and_fail_now_keep_no_others_out() {
    let mut desk = Desk::new();
    let lapsed: Vec<_> = (0..100)
        .map(|n| (format!("lapsed{n}.example"), n))
        .collect();
    for (name, owner) in &lapsed {
        desk.learn(name, *owner, found(1)).unwrap();
    }
    desk.learn("good.example", 1000, found(1)).unwrap();
    desk.later(seconds(20));
    for (name, owner) in &lapsed {
        desk.known_to(name, *owner).unwrap();
        desk.land(name, UNANSWERED);
    }
    desk.later(seconds(2));
    for (name, owner) in &lapsed {
        desk.known_to(name, *owner).unwrap();
    }
    assert_eq!(desk.running.len(), 8);
    desk.known_to("good.example", 1000).unwrap();
    assert!(desk.runs("good.example"));
}

#[test]
fn a_name_runs_on_the_account_of_any_owner_that_has_room() {
    let mut desk = Desk::new();
    let _waiting = desk.ask_many(1, |n| format!("www.dead{n}.example"));
    let mut first = desk.wait("wanted.example", 1);
    assert!(!desk.runs("wanted.example"));
    let mut second = desk.wait("wanted.example", 2);
    assert!(desk.runs("wanted.example"));
    desk.land("wanted.example", found(1));
    assert_eq!(first.try_recv().unwrap(), Ok(addresses(1)));
    assert_eq!(second.try_recv().unwrap(), Ok(addresses(1)));
}

#[test]
fn places_go_round_by_owner() {
    let mut desk = Desk::new();
    let _many: Vec<_> = (1..=5)
        .flat_map(|owner| (0..60).map(move |n| (owner, n)))
        .map(|(owner, n)| desk.wait(&format!("www.dead{n}-{owner}.example"), owner))
        .collect();
    let _late = desk.wait("late.example", 9);
    assert!(!desk.runs("late.example"), "all places are taken");
    let name = Arc::clone(&desk.running[0].name);
    desk.land(&name, found(1));
    assert!(desk.runs("late.example"), "before owners with many names");
}

#[test]
fn requests_that_wait_go_before_refreshes() {
    let mut desk = Desk::new();
    for n in 0..100 {
        desk.learn(&format!("known{n}.example"), 1, found(1))
            .unwrap();
    }
    desk.later(seconds(25));
    for n in 0..100 {
        desk.known(&format!("known{n}.example")).unwrap();
    }
    let _reply = desk.wait("new.example", 1);
    let name = Arc::clone(&desk.running[0].name);
    desk.land(&name, found(1));
    assert!(desk.runs("new.example"));
}

#[test]
fn the_queue_is_bounded_and_the_owner_with_the_most_is_refused() {
    let mut desk = Desk::new();
    let mut waiting = Vec::new();
    let refused = loop {
        match desk.ask(&format!("www.dead{}.example", waiting.len()), 1) {
            Asked::Wait(reply) => waiting.push(reply),
            Asked::Known(reply) => break reply,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused, Err(Failure::LookupOverloaded));
    assert_eq!(waiting.len(), MAX_QUEUED + desk.running.len());
    // Others find room, at the cost of the crowded owner's newest.
    let mut others: Vec<_> = (0..100)
        .map(|n| desk.wait(&format!("www.other{n}.example"), 2 + n % 10))
        .collect();
    let is_refused =
        |reply: &mut Receiver<Reply>| reply.try_recv() == Ok(Err(Failure::LookupOverloaded));
    assert!(
        others
            .iter_mut()
            .all(|reply| reply.try_recv() == Err(TryRecvError::Empty))
    );
    let refused: Vec<bool> = waiting.iter_mut().map(is_refused).collect();
    let first = refused.iter().position(|refused| *refused).unwrap();
    assert!(refused[first..].iter().all(|refused| *refused));
    assert!(refused.len() - first >= 80);
    // A name that another owner waits for as well is spared.
    let spared = first - 1;
    let mut shared = desk.wait(&format!("www.dead{spared}.example"), 50);
    let _more: Vec<_> = (0..20)
        .map(|n| desk.wait(&format!("www.more{n}.example"), 60))
        .collect();
    assert_eq!(shared.try_recv(), Err(TryRecvError::Empty));
}

#[test]
fn queued_lookups_that_nobody_wants_are_forgotten() {
    let mut desk = Desk::new();
    for round in 0..5 {
        drop(desk.ask_many(1, |n| format!("www.dead{n}-{round}.example")));
    }
    assert!(desk.book.names() < PLACES + MAX_QUEUED + 1);
    for name in desk
        .running
        .iter()
        .map(|query| Arc::clone(&query.name))
        .collect::<Vec<_>>()
    {
        desk.land(&name, UNANSWERED);
    }
    assert_eq!(desk.running.len(), 0, "no more of them run");
}

#[test]
fn a_refresh_that_nobody_waits_for_is_not_forgotten() {
    let mut desk = Desk::new();
    desk.learn("known.example", 1, found(1)).unwrap();
    desk.later(seconds(30));
    let asked = desk.book.ask("known.example", 1, desk.now);
    assert!(matches!(asked, Asked::WaitBriefly { .. }));
    drop(asked);
    desk.start();
    assert!(desk.runs("known.example"));
}

#[test]
fn memory_is_bounded_and_what_is_used_stays() {
    let mut desk = Desk::new();
    let known = |n: usize| format!("known{n}.example");
    for n in 0..MAX_NAMES {
        desk.later(millis(1));
        let end = if n % 4 == 0 { ABSENT } else { found(1) };
        let _ = desk.learn(&known(n), 3, end);
    }
    let mut waiting = desk.wait("waiting.example", 2);
    let remembers = |desk: &Desk, n| desk.book.remembers(&known(n));
    assert!(
        (0..MAX_NAMES).all(|n| n % 4 == 0 || remembers(&desk, n)),
        "absent names go first"
    );
    for n in (1..100).step_by(4) {
        desk.later(millis(1));
        desk.known(&known(n)).unwrap();
    }
    for n in 0..2000 {
        desk.later(millis(1));
        desk.learn(&format!("new{n}.example"), 3, found(2)).unwrap();
        assert!(desk.book.names() <= MAX_NAMES);
    }
    assert!(
        (1..100).step_by(4).all(|n| remembers(&desk, n)),
        "then those not used for long"
    );
    assert!((2..100).step_by(4).all(|n| !remembers(&desk, n)));
    desk.land("waiting.example", found(3));
    assert_eq!(
        waiting.try_recv().unwrap(),
        Ok(addresses(3)),
        "what is waited for stays"
    );
}

#[test]
fn a_single_dead_domain_is_the_endpoints_fault() {
    let mut desk = Desk::new();
    desk.learn("known.example", 1, found(1)).unwrap();
    let _waiting: Vec<_> = (0..5)
        .map(|owner| desk.wait(&format!("n{owner}.dead.example2"), owner))
        .collect();
    desk.later(seconds(5));
    assert_eq!(
        desk.book.gave_up("n0.dead.example2", desk.now),
        Failure::TimedOut
    );
    desk.later(seconds(5));
    for owner in 0..5 {
        let name = format!("n{owner}.dead.example2");
        desk.land(&name, UNANSWERED);
        assert_eq!(
            desk.learn(&name, owner, UNANSWERED),
            Err(Failure::NameNotFound)
        );
    }
}

#[test]
fn a_control_tells_a_dead_domain_from_a_lost_resolver() {
    for (control_finds, expected) in [
        (found(1), Failure::NameNotFound),
        (ABSENT, Failure::NameNotFound),
        (UNANSWERED, Failure::ResolverLost),
    ] {
        let mut desk = Desk::new();
        let known = [
            "localhost",
            "sister.dead.example",
            "own.example2",
            "control.example3",
        ];
        for (name, owner) in known.into_iter().zip([3, 3, 1, 2]) {
            desk.learn(name, owner, found(1)).unwrap();
            desk.later(seconds(1));
        }
        let mut reply = desk.wait("www.dead.example", 1);
        desk.later(millis(5));
        let ended = desk.now;
        let query = desk.running.remove(0);
        let control = desk
            .book
            .control(std::slice::from_ref(&query), ended)
            .unwrap();
        assert_eq!(
            &*control.name, "control.example3",
            "of another domain and another owner"
        );
        desk.later(millis(5));
        desk.book.land(&control, control_finds, desk.now, desk.now);
        desk.book.land(&query, UNANSWERED, ended, desk.now);
        assert_eq!(reply.try_recv().unwrap(), Err(expected));
    }
}

#[test]
fn many_owners_with_dead_domains_never_lose_the_resolver_while_controls_answer() {
    let mut desk = Desk::new();
    desk.learn("good.example", 1000, found(1)).unwrap();
    for round in 0..3 {
        for owner in 0..50 {
            let name = format!("www.dead{owner}.example");
            let mut reply = desk.wait(&name, owner);
            desk.later(millis(3));
            let ended = desk.now;
            let query = desk.running.remove(0);
            let control = desk
                .book
                .control(std::slice::from_ref(&query), ended)
                .unwrap();
            desk.later(millis(1));
            desk.book.land(&control, found(1), desk.now, desk.now);
            desk.book.land(&query, UNANSWERED, ended, desk.now);
            assert_eq!(
                reply.try_recv().unwrap(),
                Err(Failure::NameNotFound),
                "{round} {name}"
            );
        }
    }
}

#[test]
fn what_this_machine_answers_itself_says_nothing_about_the_resolver() {
    for (name, expected) in [
        ("fine.example", Failure::NameNotFound),
        ("localhost", Failure::ResolverLost),
        ("app.localhost", Failure::ResolverLost),
    ] {
        let mut desk = Desk::new();
        desk.learn("first.example1", 1, UNANSWERED).unwrap_err();
        desk.later(millis(1));
        desk.learn(name, 3, found(1)).unwrap();
        desk.later(millis(1));
        assert_eq!(
            desk.learn("second.example2", 2, UNANSWERED),
            Err(expected),
            "{name}"
        );
    }
}

#[test]
fn controls_are_of_domains_and_owners_that_have_not_been_tried() {
    let mut desk = Desk::new();
    for (owner, domain) in [(1, "own"), (2, "second"), (2, "third"), (3, "fourth")] {
        desk.learn(&format!("www.{domain}.example"), owner, found(1))
            .unwrap();
        desk.later(seconds(1));
    }
    let _reply = desk.wait("www.dead.example", 1);
    let mut tried = vec![desk.running.remove(0)];
    while let Some(control) = desk.book.control(&tried, desk.now) {
        assert!(tried.len() < 6);
        desk.book.land(&control, UNANSWERED, desk.now, desk.now);
        tried.push(control);
    }
    let tried: Vec<_> = tried.iter().map(|query| &*query.name).collect();
    assert_eq!(
        tried,
        ["dead", "second", "fourth", "own", "third"].map(|domain| format!("www.{domain}.example"))
    );
}

#[test]
fn while_the_resolver_is_lost_refreshes_have_no_controls() {
    let mut desk = Desk::new();
    for n in 0..4 {
        desk.learn(&format!("known{n}.example"), n, found(1))
            .unwrap();
    }
    desk.later(seconds(25));
    let mut controls = 0;
    for n in [0, 2] {
        desk.known_to(&format!("known{n}.example"), n).unwrap();
        let query = desk.running.remove(0);
        if let Some(control) = desk.book.control(std::slice::from_ref(&query), desk.now) {
            controls += 1;
            desk.book.land(&control, UNANSWERED, desk.now, desk.now);
        }
        desk.book.land(&query, UNANSWERED, desk.now, desk.now);
    }
    assert_eq!(controls, 1);
}

#[test]
fn a_lookup_that_hangs_asks_for_a_control_once() {
    let mut desk = Desk::new();
    desk.learn("control.example2", 2, found(1)).unwrap();
    desk.learn("control.example3", 2, found(1)).unwrap();
    desk.later(seconds(1));
    let _reply = desk.wait("www.dead.example", 1);
    for _ in 0..5 {
        desk.later(millis(500));
        desk.book.doubt(desk.now);
        desk.start();
    }
    assert_eq!(desk.running.len(), 2);
    assert_eq!(
        desk.book.gave_up("www.dead.example", desk.now),
        Failure::ResolverLost,
        "both hang"
    );
    let name = Arc::clone(&desk.running[1].name);
    desk.land(&name, found(1));
    assert_eq!(
        desk.book.gave_up("www.dead.example", desk.now),
        Failure::TimedOut
    );
}

#[test]
fn one_owners_names_that_begin_to_hang_excuse_nobody_elses() {
    let mut desk = Desk::new();
    for (name, owner) in [
        ("www.a1.example", 1),
        ("www.a2.example", 1),
        ("www.good.example", 3),
    ] {
        desk.learn(name, owner, found(1)).unwrap();
        desk.later(seconds(1));
    }
    desk.later(seconds(19));
    let _reply = desk.wait("www.dead.example", 2);
    for hanging in ["www.a1.example", "www.a2.example"] {
        desk.known_to(hanging, 1).unwrap();
    }
    for _ in 0..10 {
        desk.later(millis(500));
        desk.book.doubt(desk.now);
        desk.start();
        if desk.runs("www.good.example") {
            desk.later(millis(1));
            desk.land("www.good.example", found(1));
        }
    }
    assert_eq!(desk.running.len(), 3, "they hang");
    assert_eq!(
        desk.book.gave_up("www.dead.example", desk.now),
        Failure::TimedOut
    );
}

#[test]
fn who_is_crowded_out_by_others_is_not_to_blame() {
    let mut desk = Desk::new();
    let _known = desk.learn("good.example", 1000, found(1));
    let mut waiting = Vec::new();
    for owner in 0..40 {
        waiting.push(desk.wait(&format!("www.a{owner}.example"), owner));
        waiting.push(desk.wait(&format!("www.b{owner}.example"), owner));
    }
    let mut late = desk.wait("late.example", 99);
    assert!(!desk.runs("late.example"));
    desk.later(seconds(2));
    // The resolver lives, so that it is not what they wait for.
    desk.known("good.example").unwrap();
    desk.later(seconds(28));
    let _refresh = desk.ask("good.example", 1000);
    desk.later(millis(1));
    desk.land("good.example", found(1));
    late.close();
    assert_eq!(
        desk.book.gave_up("late.example", desk.now),
        Failure::LookupOverloaded
    );
    // An owner whose own names hang is.
    let hanging = desk.running[0].owner;
    let queued = format!("www.b{hanging}.example");
    let queued = if desk.runs(&queued) {
        format!("www.c{hanging}.example")
    } else {
        queued
    };
    let _reply = desk.wait(&queued, hanging);
    assert!(!desk.runs(&queued));
    assert_eq!(desk.book.gave_up(&queued, desk.now), Failure::TimedOut);
}

#[test]
fn nobody_is_left_waiting_whatever_happens() {
    let mut desk = Desk::new();
    let mut random = 1_u64;
    let mut draw = |below: u64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    let mut waiting = Vec::new();
    for _ in 0..5_000 {
        match draw(10) {
            0..5 => {
                let name = format!("n{}.d{}.example", draw(20), draw(40));
                if let Asked::Wait(reply) | Asked::WaitBriefly { reply, .. } =
                    desk.ask(&name, draw(12))
                {
                    waiting.push(reply);
                }
            }
            5 if !waiting.is_empty() => {
                waiting.swap_remove(draw(waiting.len() as u64) as usize);
            }
            6 => desk.later(millis(draw(3000))),
            _ if !desk.running.is_empty() => {
                let name = Arc::clone(&desk.running[draw(desk.running.len() as u64) as usize].name);
                let end = [
                    found(1),
                    found(2),
                    ABSENT,
                    UNANSWERED,
                    Err(NoAddress::Unable),
                ];
                desk.land(&name, end[draw(5) as usize].clone());
            }
            _ => {}
        }
        assert!(desk.running.len() <= PLACES);
    }
    while let Some(query) = desk.running.first() {
        let name = Arc::clone(&query.name);
        desk.land(&name, found(1));
    }
    assert!(waiting.iter_mut().all(|reply| reply.try_recv().is_ok()));
}
