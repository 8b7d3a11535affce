"""The console in a browser, against the deployed stack. Without a Chromium on this machine the tests are skipped."""

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from local.console import serve_console
from tests.browser.chromium import NAMES, find_chromium, launched
from tests.browser.console import Console
from tests.e2e.conftest import Deployment, alice, deployment, stack

__all__ = ["alice", "deployment", "stack"]

type Open = Callable[..., Console]
"""(fragment="") -> the console in another tab of the same browser, at the conversation with this id."""


# Of a module, not of the session: while Playwright runs, no other test can run an event loop.
@pytest.fixture(scope="module")
def browser(request: pytest.FixtureRequest) -> Iterator[Browser]:
    """With the CHROMIUM_OPTIONS of the module, if it has some."""
    executable = find_chromium()
    if executable is None:
        pytest.skip(f"no Chromium: none of {', '.join(NAMES)} is on PATH, and CHROMIUM names none")
    with launched(executable, *getattr(request.module, "CHROMIUM_OPTIONS", ())) as browser:
        yield browser


@pytest.fixture(scope="session")
def console_url(deployment: Deployment) -> Iterator[str]:
    if deployment.stack:
        yield f"{deployment.stack.console.url}/"
        return
    server = serve_console(lambda: deployment.url, lambda: deployment.tokens)
    yield f"{server.url}/"
    server.close()


@pytest.fixture(scope="module")
def modules(browser: Browser) -> Iterator[Page]:
    """A page from which the modules of the console can be imported. It needs no stack."""
    server = serve_console(lambda: "http://127.0.0.1:1", lambda: {})
    page = browser.new_page()
    page.goto(f"{server.url}/icon.svg")
    yield page
    page.close()
    server.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    yield context
    context.close()


@pytest.fixture
def open_console(context: BrowserContext, console_url: str) -> Iterator[Open]:
    """Fails the test that meets an exception in the page, or a breach of its security policy."""
    troubles: list[str] = []

    def open_console(fragment: str = "") -> Console:
        page = context.new_page()
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", lambda line: troubles.append(line.text) if "Content Security Policy" in line.text else None)
        page.goto(f"{console_url}#{fragment}")
        expect(page.locator("#connection-text")).not_to_have_text("Connecting")  # app.js takes no input before
        return Console(page)

    yield open_console
    assert troubles == []


@pytest.fixture
def console(open_console: Open) -> Console:
    return open_console()


@pytest.fixture
def directives(deployment: Deployment) -> None:
    """For tests that order something of the stand-in model."""
    if deployment.stack is None:
        pytest.skip("needs the stand-in model: API_URL is set")
