"""Fixtures of the portal's tests: the page in a real browser, in front of the stack of the REST tests."""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import pytest

PORTAL = Path(__file__).parent
REST = PORTAL.parent / "rest"
SCREENSHOTS = PORTAL.parents[1] / "target/portal"
sys.path[:0] = [str(PORTAL), str(REST)]
pytest.register_assert_rewrite("browser")

# The fixtures and hooks of the REST tests are those of these tests too.
_spec = importlib.util.spec_from_file_location("rest_conftest", REST / "conftest.py")
_module = importlib.util.module_from_spec(_spec)
sys.modules["rest_conftest"] = _module
_spec.loader.exec_module(_module)
globals().update({name: value for name, value in vars(_module).items() if not name.startswith("_")})

from browser import Portal  # noqa: E402
from playwright.sync_api import sync_playwright  # noqa: E402


@pytest.fixture(scope="session")
def chromium():
    """The system's Chromium, without a window. Root may not have its sandbox, and it loads nothing but our page."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"] if os.geteuid() == 0 else []
        )
        yield browser
        browser.close()


@pytest.fixture
def open_portal(chromium, gateway, request):
    """Opens the page as it is for somebody new; options are those of a browser's context."""
    opened = []

    def make(through=gateway, **options):
        opened.append(Portal(chromium, through, SCREENSHOTS, **options))
        return opened[-1]

    yield make
    for number, portal in enumerate(opened):
        if getattr(request.node, "failed", False):
            portal.screenshot(f"failed-{request.node.name}-{number}")
        portal.close()


@pytest.fixture
def portal(open_portal):
    return open_portal()


@pytest.fixture
def signed_in(portal, api):
    """The page of an owner of the test's own."""
    portal.sign_in(api)
    return portal


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item):
    report = yield
    item.failed = getattr(item, "failed", False) or report.failed
    return report
