"""What the README prints is run as it is printed."""

import os
import re
import subprocess
import sys

import pytest
from api import TOP
from test_clients import CLIENTS, NODE

SECTION = (TOP / "README.md").read_text().split("\n## REST API\n")[1].split("\n## ")[0]


def snippet(language):
    found = re.findall(rf"```{language}\n(.*?)```", SECTION, re.DOTALL)
    assert found, f"no {language} in the section REST API"
    return "\n".join(found)


def run(command, gateway, api, **options):
    """What it prints."""
    environment = {**os.environ, "BASE_URL": gateway.url, "API_KEY": api.key, "POSTGREST_URL": gateway.postgrest_url}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def nobody_is_called(gateway):
    """The endpoint of the snippets is elsewhere."""
    gateway.db.stop_worker()
    yield
    gateway.db.execute("DELETE FROM webhooks.webhook")
    gateway.db.execute("DELETE FROM webhooks.outbox")
    gateway.db.start_worker()


@pytest.mark.usefixtures("nobody_is_called")
def test_curl(gateway, api):
    said = run(["bash", "-euc", snippet("sh-session")], gateway, api)
    assert said.count('"success":true') == 5, said
    assert api.done(200, "GET", "/api/v1/webhooks")["webhooks"] == []


@pytest.mark.usefixtures("nobody_is_called")
def test_typescript(gateway, api, tmp_path):
    program = CLIENTS / f"readme-{os.getpid()}.ts"
    program.write_text(snippet("ts"))
    try:
        said = run([NODE, program], gateway, api, cwd=CLIENTS)
    finally:
        program.unlink()
    assert "webhook_" in said


@pytest.mark.usefixtures("nobody_is_called")
def test_python(gateway, api):
    said = run([sys.executable, "-"], gateway, api, input=snippet("python"))
    assert "webhook_" in said


def test_the_roles_and_the_key_of_setting_it_up(gateway):
    """In a session of its own, and undone: roles are for the whole cluster."""
    with gateway.db.connect() as session:
        session.autocommit = False
        taken = [name for (name,) in session.execute("SELECT rolname FROM pg_roles WHERE rolname IN ('web', 'anon', 'authenticator')")]
        for name in taken:
            session.execute(f"ALTER ROLE {name} RENAME TO {name}_before")
        said = session.execute(snippet("sql"))
        while said.nextset():
            pass
        (key,) = said.fetchone()
        assert key["key"].startswith("ey")
        session.rollback()
