"""MediaUrls decides which image URLs a message may name. The model's server fetches them, perhaps from an internal
network."""

import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from development import cfn
from tests.unit.conftest import Account
from turnqueue.media import MediaUrls

PATTERN = cfn.template()["Parameters"]["MediaUrls"]["AllowedPattern"]
PNG = "data:image/png;base64,iVBORw0KGgo="
HOSTS = "cdn.example.com,*.images.example"


@pytest.mark.parametrize("text", ["https", "off", "a.example", HOSTS, "*.a-b.example,c.example", "10.0.0.1"])
def test_values_that_the_template_and_the_functions_take(text: str) -> None:
    assert re.fullmatch(PATTERN, text)
    MediaUrls(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "HTTPS", "http", "on", "*", "*.", "a", "localhost", "a.example,", ",a.example", "a.example b.example"),
        *("https://a.example", "a.example/x", "a.example:8443", "a_b.example", "a.*.example", "A.example"),
        "off,a.example",
    ],
)
def test_values_that_neither_takes(text: str) -> None:
    """A slip must not open every host: what is no list is refused."""
    assert not re.fullmatch(PATTERN, text)
    with pytest.raises(ValueError, match="MediaUrls"):
        MediaUrls(text)


ALLOWED = [
    ("https", "https://anything.example/a.png"),
    ("https", "https://10.0.0.1:8443/a.png"),
    (HOSTS, "https://cdn.example.com/a.png"),
    (HOSTS, "https://CDN.Example.com/a.png?x=@y#z"),
    (HOSTS, "https://cdn.example.com:443/a.png"),
    (HOSTS, "https://cdn.example.com"),
    (HOSTS, "https://cdn.example.com?x"),
    (HOSTS, "https://a.images.example/"),
    (HOSTS, "https://a.b.images.example/"),
]
REFUSED = [
    ("off", "https://cdn.example.com/a.png"),
    (HOSTS, "https://example.com/a.png"),
    (HOSTS, "https://cdn.example.com.evil.example/a.png"),
    (HOSTS, "https://evilcdn.example.com/a.png"),
    (HOSTS, "https://images.example/"),
    (HOSTS, "https://evilimages.example/"),
    (HOSTS, "https://10.0.0.1/cdn.example.com"),
    # What a parser may take for another host than the next one does:
    (HOSTS, "https://cdn.example.com@10.0.0.1/a.png"),
    (HOSTS, "https://cdn.example.com:x@10.0.0.1/a.png"),
    (HOSTS, "https://10.0.0.1\\@cdn.example.com/a.png"),
    (HOSTS, "https://10.0.0.1#@cdn.example.com/a.png"),
    (HOSTS, "https://10.0.0.1?@cdn.example.com/a.png"),
    (HOSTS, "https://cdn.example.com\\.evil.example/a.png"),
    (HOSTS, "https://cdn.example.com%2eevil.example/a.png"),
    (HOSTS, "https://cdn.example.com:8443/a.png"),
    (HOSTS, "https://cdn.example.com:0443/a.png"),
    (HOSTS, "https://cdn.example.com./a.png"),
    (HOSTS, "https://[::1]/a.png"),
    (HOSTS, "https:///cdn.example.com/a.png"),
    (HOSTS, "http://cdn.example.com/a.png"),
]


@pytest.mark.parametrize(("setting", "url"), [*ALLOWED, *((setting, PNG) for setting in ("https", "off", HOSTS))])
def test_a_url_that_is_allowed(setting: str, url: str) -> None:
    """A data URL always is, because it reaches nobody."""
    assert MediaUrls(setting).allows(url)


@pytest.mark.parametrize(("setting", "url"), REFUSED)
def test_a_url_that_is_not(setting: str, url: str) -> None:
    assert not MediaUrls(setting).allows(url)


# ---- At submit


@pytest.fixture
def set_urls(submit: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda text: monkeypatch.setattr(submit, "media_urls", MediaUrls(text))


def message(*urls: str) -> dict[str, Any]:
    return {"message": "look", "media": [{"type": "image", "url": url} for url in urls]}


@pytest.mark.parametrize(
    ("setting", "said"),
    [("off", "only uploads and data URLs"), (HOSTS, "only uploads, data URLs and https URLs of these hosts: " + HOSTS)],
)
def test_a_url_that_is_not_allowed_is_a_422_that_says_what_is(
    account: Account, set_urls: Callable[[str], None], setting: str, said: str
) -> None:
    set_urls(setting)

    refused = account.post(message(PNG, "https://secret.example/a.png"))

    assert (refused["statusCode"], refused["json"]["code"]) == (422, "media_url_not_allowed")
    assert refused["json"]["error"]["param"] == "media.1.url"
    assert said in refused["json"]["detail"]
    assert "secret.example" not in refused["body"]
    assert account.items() == []


def test_uploads_data_urls_and_the_hosts_of_the_list_are_taken(
    account: Account, set_urls: Callable[[str], None]
) -> None:
    set_urls(HOSTS)
    body = message(PNG, "https://cdn.example.com/a.png")
    body["media"].append(account.upload(b"\x89PNG\r\n\x1a\n"))

    assert account.post(body, query={"async_mode": "true"})["statusCode"] == 202


def test_a_retry_of_a_message_whose_url_is_allowed_no_longer_is_refused(
    account: Account, set_urls: Callable[[str], None]
) -> None:
    task_id = account.queued("look", media=message("https://a.example/a.png")["media"])
    account.cancel(task_id)
    set_urls("off")

    refused = account.retry(task_id)

    assert (refused["statusCode"], refused["json"]["code"]) == (422, "media_url_not_allowed")
