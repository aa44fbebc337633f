"""What the fault tests share: how often a fault comes, and the table of what came of it.

ROUNDS (default 3, the short form) is how often what comes at random moments comes.
"""

import os

import pytest

pytest.register_assert_rewrite("flow")

from flow import Flow  # noqa: E402
from server import PRELOADED  # noqa: E402

SHORT = 3


def pytest_configure(config):
    config.addinivalue_line("markers", "long: only in the long form")


def pytest_collection_modifyitems(config, items):
    if rounds_wanted() > SHORT:
        return
    long = [item for item in items if item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]


def pytest_report_header():
    return f"rounds: {rounds_wanted()}"


def rounds_wanted():
    return int(os.environ.get("ROUNDS") or SHORT)


@pytest.fixture(scope="session")
def rounds():
    """How often to strike."""
    return rounds_wanted()


@pytest.fixture(scope="session")
def long():
    """Whether this run may take its time."""
    return rounds_wanted() > SHORT


@pytest.fixture
def make_flowing(make_server, make_database, make_receiver):
    """Makes flows, each on a server of its own that may be ended in any way; limits of the rate are off."""
    made = []

    def make(settings=None, server=None, environment=None, served=True, tablespace=None, **options):
        if server is None:
            server = make_server({**PRELOADED, "webhooks.deliveries_per_minute": 0, **(settings or {})}, environment)
        if tablespace is not None:
            server.execute(f"CREATE TABLESPACE elsewhere LOCATION '{tablespace}'")
        db = make_database(server=server, extension=served, tablespace="pg_default" if tablespace is None else "elsewhere")
        if not served:
            db.execute("CREATE EXTENSION webhooks")
        flow = Flow(db, make_receiver(), **options)
        made.append(flow)
        return flow.start(served)

    yield make
    for flow in made:
        flow.stop()


@pytest.fixture
def flow(make_flowing):
    return make_flowing()


@pytest.fixture
def record(row):
    """Checks an account, and notes it as a row of the table."""

    def note(fault, account, rounds=None, vanishing=False):
        account.check(vanishing)
        row(
            fault,
            rounds if rounds is not None else len(account.strikes),
            f"{account.events:,} ({account.rate:.0f}/s)",
            lost=len(account.lost),
            again=len(account.duplicates),
            bound=account.bound,
            resume=account.resume_seconds,
        )
        return account

    return note
