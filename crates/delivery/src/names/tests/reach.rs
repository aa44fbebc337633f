use super::super::places::{Query, Standing};
use super::super::reach::Reach;
use super::*;

fn query(domain: u64, owner: u64, standing: Standing, began: Instant) -> Query {
    Query {
        name: Arc::from("name.example"),
        domain,
        owner,
        standing,
        began,
    }
}

/// A resolver that has answered once, at the time that is returned.
fn answering() -> (Reach, Instant) {
    let (mut reach, now) = (Reach::default(), start());
    reach.answered(&[], now);
    (reach, now)
}

#[test]
fn failures_of_two_owners_domains_lose_the_resolver_and_an_answer_finds_it() {
    let (mut reach, now) = answering();
    reach.failed(&query(1, 1, Standing::New, now), now + seconds(1));
    assert!(!reach.is_lost(&[], None, now + seconds(1)));
    reach.failed(&query(2, 2, Standing::New, now), now + seconds(2));
    assert!(reach.is_lost(&[], None, now + seconds(2)));
    reach.answered(&[], now + seconds(3));
    assert!(!reach.is_lost(&[], None, now + seconds(3)));
}

#[test]
fn one_domain_is_never_enough() {
    let (mut reach, now) = answering();
    for owner in 0..20 {
        for standing in [Standing::New, Standing::Proven, Standing::Control] {
            reach.failed(&query(1, owner, standing, now), now + seconds(1));
        }
    }
    assert!(!reach.is_lost(&[], None, now + seconds(1)));
}

#[test]
fn one_owner_with_dead_domains_is_not_enough() {
    let (mut reach, now) = answering();
    let hanging: Vec<_> = (0..300)
        .map(|domain| query(domain, 1, Standing::New, now + millis(1)))
        .collect();
    for domain in 300..600 {
        reach.failed(&query(domain, 1, Standing::Dead, now), now + seconds(1));
    }
    assert!(!reach.is_lost(&hanging, hanging.first(), now + seconds(20)));
}

#[test]
fn one_owner_is_enough_with_a_name_that_has_answered_before() {
    let (mut reach, now) = answering();
    reach.failed(&query(1, 1, Standing::New, now), now + seconds(1));
    reach.failed(&query(2, 1, Standing::Control, now), now + seconds(1));
    assert!(reach.is_lost(&[], None, now + seconds(1)));
}

#[test]
fn before_the_first_answer_of_all_one_owner_is_enough() {
    let (mut reach, now) = (Reach::default(), start());
    reach.failed(&query(1, 1, Standing::New, now), now);
    assert!(!reach.is_lost(&[], None, now));
    reach.failed(&query(2, 1, Standing::New, now), now);
    assert!(reach.is_lost(&[], None, now));
}

#[test]
fn what_hangs_counts_once_it_has_hung_for_a_second() {
    let (reach, now) = answering();
    let began = now + millis(1);
    let hanging = [
        query(1, 1, Standing::New, began),
        query(2, 2, Standing::New, began),
    ];
    assert!(!reach.is_lost(&hanging, None, began + millis(999)));
    assert!(reach.is_lost(&hanging, None, began + seconds(1)));
}

#[test]
fn what_began_before_an_answer_hangs_by_its_own_fault() {
    let (mut reach, now) = answering();
    let hanging = [
        query(1, 1, Standing::Proven, now + millis(1)),
        query(2, 2, Standing::Proven, now + millis(2)),
    ];
    reach.answered(&[], now + millis(3));
    assert!(!reach.is_lost(&hanging, None, now + seconds(9)));
    for other in [3, 4] {
        reach.failed(&query(other, other, Standing::New, now), now + millis(2));
    }
    assert!(
        !reach.is_lost(&[], None, now + seconds(9)),
        "nor do failures before it count"
    );
}

#[test]
fn failures_far_apart_are_not_at_the_same_time() {
    let (mut reach, now) = answering();
    reach.failed(&query(1, 1, Standing::New, now), now + seconds(1));
    reach.failed(&query(2, 2, Standing::New, now), now + seconds(40));
    assert!(!reach.is_lost(&[], None, now + seconds(40)));
    reach.failed(&query(3, 3, Standing::New, now), now + seconds(50));
    assert!(reach.is_lost(&[], None, now + seconds(50)));
    assert!(!reach.is_lost(&[], None, now + seconds(90)));
}

#[test]
fn what_the_resolver_lost_stays_lost_when_it_is_found_again() {
    let (mut reach, now) = answering();
    let began = now + millis(1);
    let running = [
        query(1, 1, Standing::New, began),
        query(2, 2, Standing::Control, began),
    ];
    reach.answered(&running, now + seconds(10));
    assert!(!reach.is_lost(&[], None, now + seconds(10)));
    assert!(running.iter().all(|query| reach.lost(query)));
    assert!(!reach.lost(&query(3, 3, Standing::New, now + seconds(11))));
}

#[test]
fn an_answer_while_it_is_not_lost_excuses_nobody() {
    let (mut reach, now) = answering();
    let alone = [query(1, 1, Standing::New, now + millis(1))];
    reach.answered(&alone, now + seconds(10));
    assert!(!reach.lost(&alone[0]));
}

#[test]
fn dead_names_of_two_owners_and_a_slow_control_excuse_nobody() {
    let (mut reach, now) = answering();
    let dead = [
        query(1, 1, Standing::New, now + millis(1)),
        query(2, 2, Standing::Dead, now + millis(1)),
    ];
    assert!(reach.is_lost(&dead, None, now + seconds(3)));
    reach.answered(&dead, now + seconds(3));
    assert!(!dead.iter().any(|query| reach.lost(query)));
}
