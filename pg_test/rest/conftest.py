"""Fixtures of the REST tests: a database behind PostgREST and nginx, as `make serve` starts them, and callers of its API.

A server is made for each process of pytest, and one database with one gateway; a test keeps to owners of its own.
"""

import pytest

pytest.register_assert_rewrite("api")

from api import Api, Gateway  # noqa: E402
from database import Database, unique  # noqa: E402
from requests_as import SECRET  # noqa: E402


@pytest.fixture(scope="session")
def rest_db(cluster):
    """A database as serve/setup.sql makes it, with the table memories attached."""
    database = Database(cluster, extension=False)
    cluster.alter_system({"webhooks.jwt_secret": SECRET, "webhooks.api_role": "web"})
    try:
        Gateway.set_up(database)
        database.reconnect()
        database.wait_for_worker()
        yield database
    finally:
        database.drop()
        cluster.execute("DROP ROLE IF EXISTS web, anon, authenticator")
        cluster.alter_system({"webhooks.jwt_secret": None, "webhooks.api_role": None})


@pytest.fixture(scope="session")
def gateway(rest_db):
    """PostgREST and nginx in front of that database."""
    started = Gateway(rest_db)
    yield started
    started.stop()


@pytest.fixture
def make_gateway(rest_db):
    """Gateways for tests that end one of their processes."""
    made = []

    def make():
        made.append(Gateway(rest_db))
        return made[-1]

    yield make
    for each in made:
        each.stop()


@pytest.fixture
def api(gateway):
    """The API as an owner of the test's own sees it."""
    return Api(gateway, unique("owner"))


@pytest.fixture
def other(gateway):
    """And as somebody else sees it."""
    return Api(gateway, unique("owner"))


@pytest.fixture
def postgrest_itself(gateway):
    """For what another server does in another way."""
    if gateway.substitute:
        pytest.skip("this server is not PostgREST, and differs in this")
