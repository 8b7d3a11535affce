"""POST /chat with hostile or senseless bodies: each is refused properly, or accepted and stored unchanged."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.hostile.checks import MARK, examples
from tests.hostile.gateway import Answer, Gateway
from tests.payloads import api_event
from tests.unit.conftest import Account

JSON = "application/json"
PIXEL = "data:image/png;base64,iVBORw0KGgo="

TEXT = st.text()
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.just(MARK),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT | st.just(MARK), inner, max_size=4),
    max_leaves=12,
)


def chat(gateway: Gateway, body: bytes, content_type: str | None = JSON, owner: str = "alice") -> Answer:
    headers = {} if content_type is None else {"content-type": content_type}
    return gateway.request("POST", "/chat?async_mode=true", headers=headers, body=body, claims={"sub": owner})


def refused(answer: Answer, *statuses: int) -> None:
    assert answer.status in statuses, answer.body


def message(text: str, **members: Any) -> bytes:
    return json.dumps({"message": text, **members}).encode()


# ---- What is no JSON, or none that we know

NOT_JSON = {
    "empty": b"",
    "blank": b" \r\n\t",
    "words": MARK.encode(),
    "byte order mark": b"\xef\xbb\xbf" + message("hello"),
    "UTF-16": '{"message": "hello"}'.encode("utf-16"),
    "UTF-32": '{"message": "hello"}'.encode("utf-32-le"),
    "two documents": message("hello") + message("hello"),
    "zeros behind it": message("hello") + b"\0\0",
    "a comma too many": b'{"message": "hello",}',
    "a comment": b'{"message": "hello"} // ' + MARK.encode(),
    "single quotes": b"{'message': 'hello'}",
    "a zero in a string": b'{"message": "hel\0lo"}',
    "a line in a string": b'{"message": "hel\nlo"}',
    "a leading zero": b'{"message": 01}',
    "half a pair": rb'{"message": "\ud800"}',
    "the other half": rb'{"message": "\udc00\ud800"}',
    "half a pair as a name": rb'{"message": "hello", "\ud800": 1}',
    "half an escape": rb'{"message": "\u12"}',
    "brackets without end": b"[" * 500_000,
    "braces without end": b'{"message":' * 40_000,
    "brackets, closed": b'{"message": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "deep metadata": b'{"message": "a", "metadata": ' + b'{"a":' * 80_000 + b"1" + b"}" * 80_000 + b"}",
    "a number of 400,000 digits": b'{"message": ' + b"9" * 400_000 + b"}",
}


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON)
def test_what_is_no_json_is_a_400(gateway: Gateway, body: bytes) -> None:
    refused(chat(gateway, body), 400)


@pytest.mark.parametrize("body", [b"\xff", b'{"message": "\xe9"}', b'{"message": "\xed\xa0\x80"}', b"\xc0\xaf" * 9])
def test_what_is_no_utf8_is_a_400(gateway: Gateway, body: bytes) -> None:
    """As it comes without a Content-Type: API Gateway repairs what it takes for text."""
    refused(chat(gateway, body, content_type=None), 400)


def test_a_body_cut_anywhere_is_a_400(gateway: Gateway) -> None:
    body = message("héllo \\ 😀", session_id="s", media=[{"type": "image", "url": PIXEL}], metadata={"a": "b"})
    for length in range(len(body)):
        refused(chat(gateway, body[:length], content_type=None), 400)


@pytest.mark.parametrize(
    "body", [b"null", b"true", b"0", b"-1e999", b'"hello"', b"[]", b'[{"message": "hello"}]', b"{}"]
)
def test_another_document_is_a_422(gateway: Gateway, body: bytes) -> None:
    refused(chat(gateway, body), 422)


# ---- Fields

# Beside those of REFUSED in tests/unit/test_request.py.
WRONG_FIELDS: dict[str, dict[str, Any]] = {
    "message NaN": {"message": float("nan")},
    "message infinite": {"message": float("-inf")},
    "message list": {"message": [MARK]},
    "message object": {"message": {"$gt": MARK}},
    "session path": {"session_id": "../../etc/passwd"},
    "session key": {"session_id": "bob#s"},
    "session line": {"session_id": "abc\n"},
    "session zero": {"session_id": "abc\0"},
    "session other digits": {"session_id": "\uff11\uff12\uff13"},
    "session look-alike": {"session_id": "s\u0435ssion"},
    "session secret": {"session_id": MARK},
    "role file": {"role": "general.toml"},
    "role case": {"role": "General"},
    "role look-alike": {"role": "g\u0435neral"},
    "media without type": {"media": [{"url": PIXEL}]},
    "metadata long name": {"metadata": {"7Hq4" + "a" * 61: "a"}},
    "metadata long value": {"metadata": {"a": "7Hq4" * 129}},
    "metadata secret name": {"metadata": {"7Hq4": 1}},
    "prototype": {"__proto__": {"admin": True}},
    "owner": {"owner": "bob"},
}


@pytest.mark.parametrize("fields", WRONG_FIELDS.values(), ids=WRONG_FIELDS)
def test_a_field_that_does_not_fit_is_a_422(gateway: Gateway, fields: dict[str, Any]) -> None:
    answer = chat(gateway, json.dumps({"message": "hello", **fields}).encode())
    refused(answer, 422)
    assert answer.json["errors"]


# Beside those of REFUSED in tests/unit/test_request.py.
WRONG_URLS = [
    "",
    " ",
    "https://",
    "https://?query",
    "HTTPS://example.com/a.png",
    " https://example.com/a.png",
    "https://example.com/a.png ",
    "https://example.com/" + "a" * 2030,
    "//example.com/a.png",
    "https://\0\7",
    "https://example.com/\ufeff",
    "https://é.com",
    "ftp://example.com/a.png",
    "javascript:alert(1)",
    "s3://bucket/key",
    "data:",
    "data:image/png",
    "data:image/png;base64,ab",
    "data:image/png;base64,a===",
    "data:image/png;base64,ab=c",
    "data:image/png;base64,ab\ncd",
    "data:image/png;base64,äöüß",
    "data:image/png;charset=utf-8;base64,iVBORw0KGgo=",
    "DATA:image/png;base64,iVBORw0KGgo=",
    MARK,
]


@pytest.mark.parametrize("url", WRONG_URLS)
def test_a_url_that_is_none_is_a_422(gateway: Gateway, url: str) -> None:
    refused(chat(gateway, message("hello", media=[{"type": "image", "url": url}])), 422)


def test_of_names_that_come_twice_the_last_counts_in_every_check(gateway: Gateway, common_account: Account) -> None:
    refused(chat(gateway, b'{"message": "hello", "message": ""}'), 422)
    refused(chat(gateway, b'{"role": "general", "message": "hello", "role": "root"}'), 422)
    answer = chat(gateway, b'{"message": "", "message": "hello"}')
    assert answer.status == 202
    assert json.loads(common_account.item(answer.json["task_id"])["request"]["S"])["message"] == "hello"


# ---- What is made to cost much

COSTLY = {
    "a URL with a blank at its end": message("a", media=[{"type": "image", "url": "https://" + "a" * 500_000 + " "}]),
    "eight URLs": message("a", media=[{"type": "image", "url": "https://" + "a" * 2039 + " "}] * 8),
    "a data URL": message("a", media=[{"type": "image", "url": "data:image/png;base64," + "a" * 500_000 + " "}]),
    "a hundred thousand attachments": message("a", media=[{}] * 100_000),
    "forty thousand unknown fields": message("a", **{f"k{number}": 1 for number in range(40_000)}),
    "forty thousand metadata": message("a", metadata={f"k{number}": 1 for number in range(40_000)}),
    "a name of half a megabyte": message("a", **{"k" * 500_000: 1}),
    "half a million blanks": b" " * 500_000 + message("") + b" ",
    "eighty thousand escapes": b'{"message": "' + rb"\u0041" * 80_000 + b'"}',
}


@pytest.mark.parametrize("body", COSTLY.values(), ids=COSTLY)
def test_what_is_made_to_cost_much_is_refused_at_once(gateway: Gateway, body: bytes) -> None:
    answer = chat(gateway, body)
    refused(answer, 422)
    assert len(answer.body) < 20_000


# ---- Sizes


def data_urls(length: int) -> list[dict[str, str]]:
    """As many attachments as it takes for their URLs to have so many characters together; base64 comes in fours."""
    prefix, count = "data:image/jpeg;base64,", 3 * length % 4 or 4
    letters, rest = divmod(length - count * len(prefix), 4)
    assert rest == 0
    payloads = ["AAAA"] * (count - 1) + ["AAAA" * (letters - count + 1)]
    return [{"type": "image", "url": prefix + payload} for payload in payloads]


def of_bytes(size: int) -> dict[str, Any]:
    """A request whose fields have `size` bytes as JSON, role included. Its data URLs are small, so they count."""
    media = [{"type": "image", "url": f"data:image/png;base64,{'A' * 4000}"}] * 8
    request: dict[str, Any] = {"media": media, "metadata": {str(number): "\0" * 512 for number in range(16)}}
    left = size - sum(len(json.dumps(value)) for value in ("general", "", *request.values()))
    return request | {"message": "\0" * (left // 6) + "x" * (left % 6)}  # six bytes a NUL


AT_MOST: dict[str, tuple[int, Callable[[int], dict[str, Any]]]] = {
    "characters of the message": (32_000, lambda size: {"message": "字" * size}),
    "characters of the session's name": (64, lambda size: {"session_id": "s" * size}),
    "attachments": (8, lambda size: {"media": [{"type": "image", "url": PIXEL}] * size}),
    "characters of a URL": (2048, lambda size: {"media": [{"type": "image", "url": "https://a/".ljust(size, "a")}]}),
    "characters of the data URLs": (200_000, lambda size: {"media": data_urls(size)}),
    "metadata": (16, lambda size: {"metadata": {str(number): "" for number in range(size)}}),
    "characters of a name": (64, lambda size: {"metadata": {"é" * size: ""}}),
    "characters of a value": (512, lambda size: {"metadata": {"a": "😀" * size}}),
    "bytes": (256 * 1024, of_bytes),
}


@pytest.mark.parametrize(("most", "make"), AT_MOST.values(), ids=AT_MOST)
def test_the_largest_is_accepted_and_one_more_refused(
    gateway: Gateway, most: int, make: Callable[[int], dict[str, Any]]
) -> None:
    for size, status in ((most, 202), (most + 1, 413 if make is of_bytes else 422)):
        body = json.dumps({"message": "hello"} | make(size), ensure_ascii=False).encode()
        refused(chat(gateway, body), status)


def fits(request: dict[str, Any]) -> bool:
    """Whether DESIGN.md and the seed's limits allow it, said once more and independently."""
    media, metadata = request.get("media", []), request.get("metadata", {})
    data = [item["url"] for item in media if item["url"].startswith("data:")]
    return (
        1 <= len(request["message"]) <= 32_000
        and len(media) <= 8
        and all(len(item["url"]) <= 2048 for item in media if item["url"] not in data)
        and sum(map(len, data)) <= 200_000
        and len(metadata) <= 16
        and all(1 <= len(name) <= 64 and len(value) <= 512 for name, value in metadata.items())
    )


def near(*limits: int) -> st.SearchStrategy[int]:
    return st.sampled_from([length + step for length in limits for step in (-1, 0, 1)])


LETTERS = st.sampled_from(["a", "é", "字", "😀", '"', "\\", "\0", "\u2028"])
# A data URL of so many characters: the length of its base64 is a multiple of 4.
DATA_URLS = near(40, 100_000, 199_974, 200_000).map(
    lambda length: "data:image/png;base64," + "A" * ((length - 22) // 4 * 4)
)
HTTPS_URLS = near(30, 2048).map(lambda length: "https://" + "a" * (length - 8))


@examples()
@given(
    text=st.builds(lambda letter, length: letter * length, LETTERS, near(1, 32_000)),
    media=st.lists(DATA_URLS | HTTPS_URLS, max_size=9),
    metadata=st.dictionaries(
        st.builds(lambda letter, length: letter * length, LETTERS, near(1, 64)),
        st.builds(lambda letter, length: letter * length, LETTERS, near(1, 512)),
        max_size=17,
    ),
)
def test_nothing_larger_than_the_limits_is_accepted_and_nothing_smaller_refused(
    gateway: Gateway, common_account: Account, text: str, media: list[str], metadata: dict[str, str]
) -> None:
    request: dict[str, Any] = {"message": text, "metadata": metadata}
    request["media"] = [{"type": "image", "url": url} for url in media]
    body = json.dumps(request, ensure_ascii=False).encode()
    answer = chat(gateway, body)
    if len(body) > 512 * 1024:
        refused(answer, 413)
    elif not fits(request):
        refused(answer, 422)
        assert answer.json["code"] == "invalid_request"
    elif answer.status == 413:
        assert answer.json["code"] == "request_too_large"
        assert len(body) > 255 * 1024
    else:
        assert answer.status == 202
        item = common_account.item(answer.json["task_id"])
        assert len(json.dumps(item, ensure_ascii=False).encode()) < 400 * 1024


@pytest.mark.parametrize("size", [512 * 1024 + 1, 6_000_000, 10_000_000])
def test_a_body_beyond_the_limit_is_a_413(gateway: Gateway, size: int) -> None:
    refused(chat(gateway, b'{"message": "' + b"a" * (size - 15) + b'"}'), 413)


# ---- Anything at all


@examples()
@given(VALUES)
def test_any_json_is_answered_in_good_order(gateway: Gateway, document: Any) -> None:
    refused(chat(gateway, json.dumps(document).encode()), 400, 422)


@examples(2)
@given(st.sampled_from(["message", "session_id", "role", "media", "metadata", "more"]), VALUES)
def test_any_json_in_any_field_is_answered_in_good_order(gateway: Gateway, field: str, value: Any) -> None:
    refused(chat(gateway, json.dumps({"message": "hello", field: value}).encode()), 202, 400, 422)


@examples()
@given(st.binary(max_size=200), st.sampled_from([JSON, None, "application/octet-stream", "text/plain"]))
def test_any_bytes_are_answered_in_good_order(gateway: Gateway, body: bytes, content_type: str | None) -> None:
    refused(chat(gateway, body, content_type), 400, 415, 422)


@examples(2)
@given(st.integers(0, 1000), st.integers(0, 1000), st.binary(max_size=8))
def test_a_body_with_any_piece_replaced_is_answered_in_good_order(
    gateway: Gateway, start: int, length: int, piece: bytes
) -> None:
    body = message(f"hello {MARK}", session_id="s", role="booking", media=[{"type": "image", "url": PIXEL}])
    start %= len(body)
    refused(chat(gateway, body[:start] + piece + body[start + length % 20 :]), 202, 400, 422)


@examples()
@given(st.text(min_size=1), st.dictionaries(st.text(min_size=1, max_size=64), st.text(max_size=512), max_size=3))
def test_any_text_is_kept_as_it_was(gateway: Gateway, text: str, metadata: dict[str, str]) -> None:
    accepted = chat(gateway, message(text, metadata=metadata))
    assert accepted.status == 202
    (turn,) = gateway.request("GET", f"/chat/session/{accepted.json['session_id']}", claims={"sub": "alice"}).json[
        "turns"
    ]
    assert (turn["message"], turn["metadata"]) == (text, metadata)


# ---- Content types and base64

OTHER_TYPES = [
    "text/plain",
    "text/json",
    "application/jsonp",
    "application/json2",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "application/json, text/plain",
    "application/problem+json",
    "*/*",
    ";",
    "é",
    MARK,
]


@pytest.mark.parametrize("content_type", OTHER_TYPES)
def test_another_content_type_is_a_415(gateway: Gateway, content_type: str) -> None:
    refused(chat(gateway, message("hello"), content_type), 415)


@pytest.mark.parametrize(
    "content_type", [JSON, "Application/JSON", "application/json; charset=utf-8", " application/json ;", None]
)
def test_json_by_any_of_its_names_is_accepted(gateway: Gateway, content_type: str | None) -> None:
    assert chat(gateway, message("hello"), content_type).status == 202


@pytest.mark.parametrize("body", ["!", "a", "aaa", "ab=c", "====", "aGVsbG8=\n", "é", "\ud800", "Z" * 1001, MARK])
def test_a_body_that_is_no_base64_is_a_400(gateway: Gateway, body: str) -> None:
    event = api_event("POST /chat")
    event |= {"body": body, "isBase64Encoded": True}
    refused(gateway.invoke("submit", event), 400)


def test_a_body_in_base64_is_measured_as_it_was_before(gateway: Gateway) -> None:
    event = api_event("POST /chat", query={"async_mode": "true"})
    body = message("hello", metadata={"a": "b"}) + b" " * 400_000
    event |= {"body": base64.b64encode(body).decode(), "isBase64Encoded": True}
    assert gateway.invoke("submit", event).status == 202


def test_a_text_that_cannot_be_utf8_is_a_400(gateway: Gateway) -> None:
    event = api_event("POST /chat")
    event |= {"body": '{"message": "\ud800"}', "isBase64Encoded": False}
    refused(gateway.invoke("submit", event), 400)
