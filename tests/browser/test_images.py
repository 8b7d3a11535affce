"""Images in the console: their first bytes decide their type, whatever their name."""

import json

import pytest
from playwright.sync_api import FilePayload, Request, expect

from tests.browser.console import Console
from tests.browser.pictures import drawn, noise
from tests.e2e.conftest import Deployment

pytestmark = pytest.mark.usefixtures("directives")


def attach(console: Console, name: str, content_type: str, content: bytes) -> None:
    file: FilePayload = {"name": name, "mimeType": content_type, "buffer": content}
    console.page.locator("#files").set_input_files(file)


@pytest.mark.parametrize("name", ["photo.png", "photo"])
def test_a_small_jpeg_under_another_name_is_sent_as_a_jpeg(console: Console, deployment: Deployment, name: str) -> None:
    content_type = "image/png" if name == "photo.png" else ""
    attach(console, name, content_type, drawn(console.page, "image/jpeg", 32))
    console.expect_answer(console.send("look", role="general"), "1 image")
    with deployment.api("alice") as alice:
        [turn] = alice.http.get(f"/chat/session/{console.session_id}").json()["turns"]
    assert turn["media"][0]["url"].startswith("data:image/jpeg;base64,/9j/")


def test_a_large_webp_called_png_is_uploaded_as_webp(console: Console) -> None:
    asked: list[Request] = []
    console.page.on("request", lambda request: asked.append(request) if "/chat/media" in request.url else None)
    attach(console, "photo.png", "image/png", drawn(console.page, "image/webp", 500))
    console.expect_answer(console.send("look", role="general"), "1 image")
    # The worker compares the file with this type, and refuses the image for good where they differ.
    [body] = [request.post_data or "" for request in asked if request.method == "POST"]
    assert json.loads(body)["content_type"] == "image/webp"
    expect(console.last.get_by_role("img", name="Attached image 1")).to_have_js_property("naturalWidth", 500)


def test_an_upload_for_which_the_token_was_refused_is_done_again(console: Console, deployment: Deployment) -> None:
    cors = {"Access-Control-Allow-Origin": "*"}
    console.page.route(
        "**/chat/media", lambda route: route.fulfill(status=401, json={"message": "Unauthorized"}, headers=cors)
    )
    attach(console, "photo.png", "image/png", noise(600))
    turn = console.send("look", role="general")
    console.expect_state(turn, "Not sent")
    expect(turn.locator(".trouble")).to_contain_text("The API refused your token")
    console.page.unroute("**/chat/media")
    turn.get_by_role("button", name="Send again").click()
    console.expect_answer(console.last, "1 image")
    with deployment.api("alice") as alice:
        [kept] = alice.http.get(f"/chat/session/{console.session_id}").json()["turns"]
    assert list(kept["media"][0]) == ["type", "upload_id"], "it is sent as a smaller one"


@pytest.mark.parametrize("content", [b"", b"plain text", noise(8)[:40]], ids=["empty", "text", "cut off"])
def test_what_is_no_image_is_refused_when_it_is_attached(console: Console, content: bytes) -> None:
    console.message.fill("look")
    attach(console, "photo.png", "image/png", content)
    error = console.page.locator("#composer-error")
    expect(error).to_have_text("“photo.png” is not an image that this browser can read.")
    expect(console.page.locator("#attached li")).to_have_count(0)
    expect(console.message).to_have_value("look")


def test_an_image_that_the_api_does_not_take_is_drawn_as_a_jpeg(console: Console, deployment: Deployment) -> None:
    bitmap = bytes.fromhex("424d3a0000000000000036000000280000000100000001000000010018000000000004000000") + bytes(16)
    attach(console, "dot.bmp", "image/bmp", bitmap + bytes.fromhex("0000ff00"))
    console.expect_answer(console.send("look", role="general"), "1 image")
    with deployment.api("alice") as alice:
        [turn] = alice.http.get(f"/chat/session/{console.session_id}").json()["turns"]
    assert turn["media"][0]["url"].startswith("data:image/jpeg;base64,/9j/")
