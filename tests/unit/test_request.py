"""The requests that POST /chat accepts, each limit from both sides, and the refusals of all others."""

import json
from types import ModuleType
from typing import Any

import pytest

from tests.payloads import Context
from tests.unit.conftest import Account, Printed, Response, Wire, read
from turnqueue.personas import ROLES

PNG = "data:image/png;base64,"
HTTPS = {"type": "image", "url": "https://example.com/cat.png"}
ULID = "01KANEC0X00000000000000000"
TOOL = {"type": "function", "name": "add"}
RESULT = {"call_id": "c", "output": "4"}
ASYNC = {"async_mode": "true"}
THE_ROLES = ", ".join(sorted(ROLES))


def data_url(characters: int) -> str:
    """A valid data URL of about so many characters: `characters` less up to 3."""
    return PNG + "A" * ((characters - len(PNG)) // 4 * 4)


def image(url: str) -> dict[str, str]:
    return {"type": "image", "url": url}


def send(account: Account, body: Any, **options: Any) -> Response:
    return account.post(body, query=ASYNC, **options)


# ---- What is accepted

ACCEPTED: dict[str, dict[str, Any]] = {
    "the shortest message": {},
    "the longest message": {"message": "x" * 32_000},
    "the longest message, counted in characters": {"message": "😀" * 32_000},
    "any control character": {"message": "a\x00b\x1f\n"},
    "the shortest session id": {"session_id": "a"},
    "the longest session id": {"session_id": "aB9_-" * 12 + "abcd"},
    "the general role": {"role": "general"},
    "the booking role": {"role": "booking"},
    "nulls for what is optional": {"session_id": None, "media": None, "metadata": None},
    "no media": {"media": []},
    "an https URL": {"media": [HTTPS]},
    "the longest https URL": {"media": [image("https://e.com/" + "a" * 2034)]},
    "8 media": {"media": [HTTPS] * 8},
    "the four image types": {
        "media": [image(f"data:image/{kind};base64,AAAA") for kind in ("png", "jpeg", "gif", "webp")]
    },
    "200,000 characters of data URL": {"media": [image(data_url(200_000))]},
    "200,000 characters of data URLs in sum": {"media": [image(data_url(100_000))] * 2},
    "no metadata": {"metadata": {}},
    "16 metadata of 64 and 512 characters": {"metadata": {f"{number:064}": "v" * 512 for number in range(16)}},
    "a metadata name of any characters": {"metadata": {"key of a kind/ü": ""}},
}


@pytest.mark.parametrize("more", ACCEPTED.values(), ids=ACCEPTED)
def test_is_accepted_and_kept_as_it_came(account: Account, more: dict[str, Any]) -> None:
    body = {"message": "x"} | more
    response = send(account, body)

    assert response["statusCode"] == 202, response["body"]
    sent = {name: value for name, value in body.items() if value is not None}
    session_id = sent.pop("session_id", response["json"]["session_id"])
    assert response["json"]["session_id"] == session_id
    stored = json.loads(account.item(response["json"]["task_id"])["request"]["S"])
    [turn] = account.session(session_id)["json"]["turns"]
    assert turn["media"] == sent.get("media", [])
    assert stored | {"media": None} == {"role": "general"} | sent | {"media": None}


# ---- What is refused

REFUSED: dict[str, tuple[dict[str, Any], str | None, str]] = {
    "an empty message": ({"message": ""}, "message", "at least 1 char"),
    "a message of 32,001 characters": ({"message": "x" * 32_001}, "message", "32000"),
    "a message that is a number": ({"message": 5}, "message", "string"),
    "a message that is null": ({"message": None}, "message", "string"),
    "an empty session id": ({"session_id": ""}, "session_id", "1 to 64 characters"),
    "a session id of 65": ({"session_id": "a" * 65}, "session_id", "1 to 64 characters"),
    "a session id with a dot": ({"session_id": "a.b"}, "session_id", "A-Z, a-z, 0-9, _ and -"),
    "a session id with a hash": ({"session_id": "bob#b"}, "session_id", "A-Z"),
    "a session id with a slash": ({"session_id": "../b"}, "session_id", "A-Z"),
    "a session id with a line end": ({"session_id": "ab\n"}, "session_id", "A-Z"),
    "a session id beyond ASCII": ({"session_id": "sé"}, "session_id", "A-Z"),
    "a session id of digits beyond ASCII": ({"session_id": "٣"}, "session_id", "A-Z"),
    "a session id that is a number": ({"session_id": 5}, "session_id", "string"),
    "an unknown role": ({"role": "pirate"}, "role", f"must be one of: {THE_ROLES}"),
    "a role that is a path": ({"role": "../booking"}, "role", "booking, general"),
    "a role that is null": ({"role": None}, "role", "string"),
    "an unknown field": ({"user_id": "bob"}, "user_id", "not permitted"),
    "a field in the wrong case": ({"Role": "general"}, "Role", "not permitted"),
    "17 metadata": ({"metadata": {str(n): "v" for n in range(17)}}, "metadata", "16"),
    "an empty metadata name": ({"metadata": {"": "v"}}, "metadata", "at least 1 char"),
    "a metadata name of 65": ({"metadata": {"k" * 65: "v"}}, "metadata", "64"),
    "a metadata value of 513": ({"metadata": {"k": "v" * 513}}, "metadata", "512"),
    "a metadata value that is a number": ({"metadata": {"k": 1}}, "metadata", "string"),
    "a metadata value that is an object": ({"metadata": {"k": {}}}, "metadata", "string"),
    "metadata that is a list": ({"metadata": ["k"]}, "metadata", "object"),
    "9 media": ({"media": [HTTPS] * 9}, "media", "8"),
    "media that is an object": ({"media": HTTPS}, "media", "array"),
    "a medium that is no image": (
        {"media": [HTTPS, {"type": "video", "url": HTTPS["url"]}]},
        "media.1.type",
        "'image'",
    ),
    "a medium without a URL": ({"media": [{"type": "image"}]}, "media.0", "exactly one of url and"),
    "a medium with another field": ({"media": [HTTPS | {"detail": "low"}]}, "media.0.detail", "not permitted"),
    "a medium of nothing": ({"media": [HTTPS | {"url": None, "upload_id": None}]}, "media.0", "exactly one of url and"),
    "a medium with a URL and an upload": (
        {"media": [HTTPS | {"upload_id": ULID}]},
        "media.0",
        "exactly one of url and",
    ),
    **{
        f"{upload_id!r} for an upload": (
            {"media": [{"type": "image", "upload_id": upload_id}]},
            "media.0.upload_id",
            "upload_id",
        )
        for upload_id in ("", f"../{ULID}", ULID.lower(), f"{ULID}0", f"{ULID}\n", 5)
    },
    "an http URL": ({"media": [image("http://e.com/a.png")]}, "media.0.url", "https URL"),
    "a file URL": ({"media": [image("file:///etc/passwd")]}, "media.0.url", "https URL"),
    "an https URL without a host": ({"media": [image("https:///a")]}, "media.0.url", "https"),
    "an https URL with a space": ({"media": [image("https://e.com/a b")]}, "media.0.url", "https"),
    "an https URL of 2,049": ({"media": [image("https://e.com/" + "a" * 2035)]}, "media.0.url", "2048"),
    "a data URL that is text": (
        {"media": [image("data:text/html;base64,AAAA")]},
        "media.0.url",
        "image/png, image/jpeg, image/gif or image/webp",
    ),
    "a data URL that is SVG": ({"media": [image("data:image/svg+xml;base64,AAAA")]}, "media.0.url", "image/png"),
    "a data URL without base64": ({"media": [image("data:image/png,AAAA")]}, "media.0.url", "base64"),
    "a data URL of nothing": ({"media": [image(PNG)]}, "media.0.url", "base64"),
    "a character outside base64": ({"media": [image(PNG + "A*AA")]}, "media.0.url", "not valid base64"),
    "base64 that is cut": ({"media": [image(PNG + "AAAAA")]}, "media.0.url", "not valid base64"),
    "base64 with a line end": ({"media": [image(PNG + "AAAA\n")]}, "media.0.url", "not valid base64"),
    "a data URL of more than 200,000": ({"media": [image(data_url(200_004))]}, "media.0.url", "200000 characters"),
    "results of functions without their session": ({"tool_outputs": [RESULT]}, "tool_outputs", "session_id"),
    "no results": ({"tool_outputs": []}, "tool_outputs", "at least 1 item"),
    "129 results": ({"tool_outputs": [RESULT] * 129}, "tool_outputs", "128"),
    "a result without its call": (
        {"session_id": "s", "tool_outputs": [{"output": "4"}]},
        "tool_outputs.0.call_id",
        "required",
    ),
    "the id of a call of 201": (
        {"session_id": "s", "tool_outputs": [RESULT | {"call_id": "c" * 201}]},
        "tool_outputs.0.call_id",
        "200",
    ),
    "a result that is no text": (
        {"session_id": "s", "tool_outputs": [RESULT | {"output": {}}]},
        "tool_outputs.0.output",
        "string",
    ),
    "129 functions": ({"tools": [TOOL] * 129}, "tools", "128"),
    "a function with a bad name": ({"tools": [TOOL | {"name": "a b"}]}, "tools.0.name", "match pattern"),
    "a function in the form of Chat Completions": (
        {"tools": [{"type": "function", "function": {"name": "add"}}]},
        "tools.0.name",
        "required",
    ),
    "another kind of tool": ({"tools": [TOOL | {"type": "web_search"}]}, "tools.0.type", "'function'"),
    "a number in a function's schema that JSON cannot have": (
        {"tools": [TOOL | {"parameters": {"maximum": float("inf")}}]},
        "tools",
        "a number that is too large",
    ),
    "an unknown tool choice": ({"tools": [TOOL], "tool_choice": "always"}, "tool_choice", "'required'"),
    "a tool choice of no function": (
        {"tools": [TOOL], "tool_choice": {"type": "function", "name": "sub"}},
        "tool_choice",
        "one of the functions in tools",
    ),
    "a deadline beyond the deployment's": ({"deadline_seconds": 901}, "deadline_seconds", "equal to 900"),
    "a deadline too soon to meet": ({"deadline_seconds": 9}, "deadline_seconds", "equal to 10"),
    "data URLs of more than 200,000 in sum": ({"media": [image(data_url(100_004))] * 2}, "media", "200000 characters"),
}


@pytest.mark.parametrize(("more", "param", "hint"), REFUSED.values(), ids=REFUSED)
def test_is_refused_by_a_422_that_names_the_field_and_its_limit(
    account: Account, wire: Wire, more: dict[str, Any], param: str, hint: str
) -> None:
    response = send(account, {"message": "x"} | more)

    assert (response["statusCode"], response["json"]["code"]) == (422, "invalid_request")
    assert response["json"]["error"]["param"] == param
    assert response["json"]["errors"][0]["field"] == param
    assert hint in response["json"]["detail"]
    assert wire.calls == []


def test_every_fault_is_named_and_at_most_ten(account: Account) -> None:
    body = {"message": 5, "role": "pirate", "session_id": ""} | {f"unknown{number}": 1 for number in range(20)}

    errors = send(account, body)["json"]["errors"]

    assert len(errors) == 10
    assert {"message", "role", "session_id", "unknown0"} <= {error["field"] for error in errors}
    assert all(set(error) == {"field", "code", "detail"} for error in errors)


def test_no_body_is_a_400_and_no_message_a_422(account: Account) -> None:
    assert send(account, "")["statusCode"] == 400
    assert send(account, {})["json"]["error"]["param"] == "message"


LARGEST = {
    "message": "\0" * 31_000,  # six bytes each as JSON, which an item holds
    "metadata": {str(number): "\0" * 512 for number in range(16)},
    "media": [image(data_url(2000))] * 8,
}


def test_the_largest_request_that_an_item_holds_is_accepted(account: Account) -> None:
    assert send(account, LARGEST)["statusCode"] == 202


def test_a_request_that_no_item_would_hold_is_a_413_that_names_its_largest_field(account: Account, wire: Wire) -> None:
    response = send(account, LARGEST | {"media": [image(data_url(4096))] * 8})

    assert (response["statusCode"], response["json"]["code"]) == (413, "request_too_large")
    assert response["json"]["error"]["param"] == "message"
    assert "262,144 bytes" in response["json"]["detail"]
    assert wire.calls == []


def test_large_data_urls_take_no_room_in_the_item(account: Account) -> None:
    assert send(account, {"message": "語" * 32_000, "media": [image(data_url(200_000))]})["statusCode"] == 202


# ---- How it is told


def test_a_refusal_is_a_problem_document_that_the_openai_sdks_read_too(account: Account) -> None:
    response = send(account, {"message": "x", "role": "pirate"})

    detail = f"role: must be one of: {THE_ROLES}"
    assert response["headers"] == {"Content-Type": "application/problem+json", "Cache-Control": "no-store"}
    assert response["json"] == {
        "type": "urn:turnqueue:problem:invalid_request",
        "title": "Unprocessable Content",
        "status": 422,
        "detail": detail,
        "code": "invalid_request",
        "errors": [{"field": "role", "code": "role", "detail": f"must be one of: {THE_ROLES}"}],
        "error": {"message": detail, "type": "invalid_request_error", "code": "invalid_request", "param": "role"},
    }


SECRET = "Xyzzy-Plugh 4711"
ECHOES: dict[str, Any] = {
    "the message": {"message": SECRET * 3000},
    "a number": {"message": 47114711},
    "the session id": {"message": SECRET, "session_id": SECRET},
    "the role": {"message": SECRET, "role": SECRET},
    "a field's value": {"message": "x", "unknown": SECRET},
    "a field's name": {"message": "x", SECRET: "x"},
    "a metadata value": {"message": "x", "metadata": {"k": [SECRET]}},
    "a metadata name": {"message": "x", "metadata": {SECRET: 5}},
    "a URL": {"message": "x", "media": [image(f"http://{SECRET}")]},
    "a data URL": {"message": "x", "media": [image(f"data:image/png;base64,{SECRET}")]},
    "a medium's type": {"message": "x", "media": [{"type": SECRET, "url": "https://e.com"}]},
    "what is not JSON": f'{{"message": "{SECRET}',
    "JSON that is no object": json.dumps(SECRET),
}


@pytest.mark.parametrize("body", ECHOES.values(), ids=ECHOES)
def test_a_refusal_repeats_nothing_of_what_was_sent(account: Account, printed: Printed, body: Any) -> None:
    response = send(account, body, headers={"Idempotency-Key": "Plugh"})

    assert response["statusCode"] in (400, 422)
    for text in (response["body"], json.dumps(response["headers"]), printed.everything):
        assert not any(word in text for word in ("Xyzzy", "Plugh", "4711"))


def test_a_refused_header_is_not_repeated(account: Account, submit: ModuleType, printed: Printed) -> None:
    event = account.post_event({"message": "x"}, headers={"Prefer": f"wait={SECRET}", "Idempotency-Key": SECRET})

    response = read(submit.handler(event, Context()))

    assert response["statusCode"] == 422
    assert "Xyzzy" not in response["body"] + printed.everything
