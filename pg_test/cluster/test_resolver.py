"""Look-ups: name servers that are out of reach, and tenants whose names nobody answers for."""

import time

import pytest
from receiver import Answer
from server import PRELOADED

OUTAGE_SECONDS = 10
DEAD = 300
# Answers that the next request needs a connection, and so an address, of its own.
CLOSES = Answer(headers=(("Connection", "close"),), then="close")
# How late an event may be that waits for nobody's names but its own.
BOUND_SECONDS = 1


@pytest.fixture
def named(make_server, make_database, names):
    settings = {
        **PRELOADED,
        "webhooks.allowed_networks": "127.0.0.1/32",
        "webhooks.max_webhooks_per_owner": "1000",
    }
    return make_database(server=make_server(settings, names.environment()))


@pytest.mark.slow
def test_name_servers_that_are_out_of_reach_for_ten_seconds_cost_no_attempt(named, names, receiver):
    """Names that were known go on as they did; those that were not wait, though longer than the limit of a request."""
    known, fresh = ([f"{kind}{n}.{kind}{n}-domain.test" for n in range(10)] for kind in ("known", "fresh"))
    names.answer(**{name.replace(".", "_"): [["127.0.0.1"]] for name in known + fresh})
    receiver.answer("/hook", CLOSES)
    webhooks = {
        name: named.create_webhook(receiver.url(host=name), ["user.activity"], owner=name.partition(".")[0])
        for name in known + fresh
    }

    def emit(some):
        for name in some:
            named.execute(
                "SELECT webhooks.emit('user.activity', '{\"object\": \"activity\"}', owner => %s)", name.partition(".")[0]
            )

    emit(known)
    named.settle(timeout=20)
    with names.stopped():
        began = time.monotonic()
        while time.monotonic() < began + OUTAGE_SECONDS:
            emit(known)
            emit(fresh)
            time.sleep(0.5)
        reached = {it.header("Host").partition(":")[0] for it in receiver.to("/hook")}
        assert reached == set(known), "known names go on, and fresh ones wait"
        assert "out of reach" in named.one("SELECT last_error FROM webhooks.status")
    for webhook in webhooks.values():
        named.wait_until(
            "SELECT count(*) FROM webhooks.deliveries WHERE webhook_id = %s AND state = 'pending'",
            0,
            params=[webhook["id"]],
            timeout=60,
        )
        assert {(it["state"], it["attempts"]) for it in named.deliveries(webhook)} == {("delivered", 1)}
    emitted = named.one("SELECT count(*) FROM webhooks.deliveries")
    assert len({it.header("X-Lanonasis-Delivery") for it in receiver.to("/hook")}) == emitted


@pytest.mark.slow
@pytest.mark.parametrize("domains", [1, DEAD])
def test_a_tenant_with_300_dead_names_delays_no_other_webhook(named, names, receiver, domains):
    """Neither one whose name is known, nor one whose name is asked for the first time."""
    dead = [f"dead{n}.dead{n % domains}.test" for n in range(DEAD)]
    others = [f"other{n}.other{n}.test" for n in range(10)]
    names.answer(
        **{name.replace(".", "_"): [["?"]] for name in dead},
        **{name.replace(".", "_"): [["127.0.0.1"]] for name in others},
    )
    receiver.answer("/hook", CLOSES)
    for name in dead:
        named.create_webhook(receiver.url(host=name), ["user.activity"], owner="hostile")
    for number, name in enumerate(others):
        named.create_webhook(receiver.url(host=name), ["user.activity"], owner=f"other{number}")

    def emit(owner):
        named.execute("SELECT webhooks.emit('user.activity', '{\"object\": \"activity\"}', owner => %s)", owner)

    emit("other0")
    receiver.wait(1, "/hook")
    late = {}
    for round in range(3):
        emit("hostile")
        for number in range(len(others)):
            arrived = len(receiver.to("/hook"))
            committed = time.monotonic()
            emit(f"other{number}")
            receiver.wait(arrived + 1, "/hook", timeout=30)
            delay = receiver.to("/hook")[-1].at - committed
            if delay > BOUND_SECONDS:
                late[round, number] = delay
    assert not late
