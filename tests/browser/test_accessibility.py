"""axe-core finds no serious problem in the console: light and dark, on a desktop and on a phone."""

from importlib.resources import files
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.console import Console

pytestmark = pytest.mark.usefixtures("directives")

AXE = (files("axe_playwright_python") / "axe.min.js").read_text()
DESK: Any = {"viewport": {"width": 1280, "height": 800}}
PHONE: Any = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


def findings(console: Console) -> list[str]:
    """What axe finds in the page as it is shown now, but for what it calls minor or moderate."""
    console.page.evaluate(AXE)
    found = console.page.evaluate("axe.run()")
    assert found["passes"]
    return [
        f"{violation['id']} ({violation['impact']}): {node['html']} {node['failureSummary']}"
        for violation in found["violations"]
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]


@pytest.mark.parametrize(("device", "scheme"), [(DESK, "light"), (PHONE, "dark")], ids=["desk", "phone"])
def test_no_serious_finding(browser: Browser, console_url: str, device: Any, scheme: Any) -> None:
    context = browser.new_context(**device, color_scheme=scheme, reduced_motion="reduce")
    console = Console(context.new_page())
    page = console.page
    panes = page.get_by_role("navigation", name="Parts of the page")
    page.goto(console_url)
    expect(page.get_by_role("heading", name="Ask something")).to_be_visible()
    seen = {"empty": findings(console)}

    booked = console.send("I need a haircut", role="booking")
    console.expect_state(booked, "Done")
    booked.get_by_role("button", name="Details").click()
    console.expect_state(console.send("[[refuse]] no"), "Failed")
    page.locator("#files").set_input_files({"name": "x.png", "mimeType": "image/png", "buffer": b"no image"})
    expect(page.locator("#composer-error")).to_be_visible()
    context.set_offline(True)
    console.expect_state(console.send("[[drip=0.1 tokens=600]] slowly"), "Sending")
    expect(page.locator("#notice")).to_be_visible()
    seen["offline"] = findings(console)
    context.set_offline(False)
    console.expect_state(console.last, "Answering")
    seen["chat"] = findings(console)
    for pane in ("Conversations", "Tasks", "Chat") if device is PHONE else ():
        panes.get_by_role("button", name=pane).click()
        seen[pane] = findings(console)
    console.last.get_by_role("button", name="Cancel").click()
    console.expect_state(console.last, "Cancelled")

    page.get_by_role("button", name="Settings").first.click()
    page.get_by_label("Another API or token").check()
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("dialog").get_by_role("alert")).to_be_visible()
    seen["settings"] = findings(console)
    context.close()
    assert {state: found for state, found in seen.items() if found} == {}
