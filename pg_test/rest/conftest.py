"""Fixtures of the REST tests: a database behind PostgREST and nginx, as `make serve` starts them, and callers of its API.

A server is made for each process of pytest, and one database with one gateway; a test keeps to owners of its own.
"""

import pytest

pytest.register_assert_rewrite("api")

from api import PASSWORD, Api, Gateway  # noqa: E402
from database import Database, unique  # noqa: E402
from postgrest_by_its_source import Postgrest  # noqa: E402
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
    """Gateways for tests that end one of their processes, or start them in another way."""
    made = []

    def make(**options):
        made.append(Gateway(rest_db, **options))
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


@pytest.fixture(scope="session")
def postgrest_by_its_source(rest_db):
    """What answers as PostgREST does by its source, in front of that database."""
    server = rest_db.server
    started = Postgrest(
        SECRET, host="127.0.0.1", port=server.port, dbname=rest_db.name, user="authenticator", password=PASSWORD
    )
    yield started
    started.stop()


@pytest.fixture(scope="session")
def gateway_by_source(rest_db, postgrest_by_its_source):
    """nginx in front of it."""
    started = Gateway(rest_db, upstream=postgrest_by_its_source.address)
    yield started
    started.stop()


@pytest.fixture
def api_by_source(gateway_by_source):
    """The API behind it, as an owner of the test's own sees it."""
    return Api(gateway_by_source, unique("owner"))
