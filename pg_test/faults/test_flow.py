"""The tests of the tests: an account sees what it is there to see."""

import urllib.request

import pytest


def send(request, **changed):
    """Makes a request once more, with other headers."""
    headers = {**dict(request.headers), **{name.replace("_", "-"): value for name, value in changed.items()}}
    url = f"http://{request.header('host')}{request.target}"
    with urllib.request.urlopen(urllib.request.Request(url, request.body, headers, method="POST"), timeout=10):
        pass


def test_an_account_sees_what_is_lost_made_up_renamed_and_sent_again_without_need(flow):
    db = flow.db
    account = flow.finish().check()
    assert account.events > 0 and account.duplicates == [] and account.bound == 0

    silent = db.connect()
    silent.execute("SET session_replication_role = replica")
    (lost,) = flow.insert(silent)
    account = flow.account()
    # The first of a test's own rows is for all that take an even number.
    assert account.lost == [("/fast", lost), ("/other", lost), ("/slow", lost)]
    with pytest.raises(AssertionError, match="3 lost"):
        account.check()
    silent.execute("DELETE FROM memories WHERE id::text = %s", [lost])
    flow.account().check()

    first = next(it for it in flow.receiver.requests if it.path == "/fast")
    send(first)
    account = flow.account()
    assert len(account.duplicates) == 1
    with pytest.raises(AssertionError, match="sent again without need"):
        account.check()

    send(first, X_Lanonasis_Delivery="delivery_" + "0" * 32)
    assert flow.account().renamed == [("/fast", first.data["id"])]

    silent.execute("DELETE FROM memories WHERE id::text = %s", [first.data["id"]])
    account = flow.account()
    assert account.phantoms == [first.data["id"]]
    assert account.vanished == 1
