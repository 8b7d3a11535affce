"""Hostile ids, queries, headers and tokens: no owner gets another owner's data, and every refusal is proper."""

import json
from types import ModuleType
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.hostile.checks import MARK, examples
from tests.hostile.gateway import Answer, Gateway, token
from tests.payloads import api_event
from turnqueue.turn import Key

ALICE = {"sub": "alice"}
ULID = "01M817QNM08QJ3ZK9V5X2M7R4T"


def submit(gateway: Gateway, claims: dict[str, Any] = ALICE, **members: Any) -> str:
    """Submit asynchronously. Returns the task's id."""
    answer = chat(gateway, {}, query="?async_mode=true", claims=claims, **members)
    assert answer.status == 202, answer.body
    task_id: str = answer.json["task_id"]
    return task_id


def chat(
    gateway: Gateway,
    headers: dict[str, str],
    *,
    query: str = "",
    claims: dict[str, Any] = ALICE,
    **members: Any,
) -> Answer:
    body = json.dumps({"message": "hello", **members}).encode()
    headers = {"content-type": "application/json"} | headers
    return gateway.request("POST", f"/chat{query}", headers=headers, body=body, claims=claims)


# ---- Ids

TRICKS = [
    "..",
    "..\\..",
    "../alice%23s",
    "%2e%2e%2f%2e%2e",
    "%252e%252e",
    "%00",
    "%0d%0aX-Injected:1",
    "%23",
    "%3Fwait=20",
    "%zz",
    "%ff",
    "%ed%a0%80",
    "{}",
    "null",
    " ",
    "%F0%9F%98%80",
    "a" * 10_000,
    f"s.{ULID}.{ULID}",
    f".{ULID}",
    f"s.{ULID.lower()}",
    f"s.8{ULID[1:]}",
    f"s.{ULID[:-1]}I",
    f"s.{ULID}%0a",
    f"s.{ULID}%00",
    f"s.%20{ULID}",
    f"%EF%BD%93.{ULID}",
    f"bob%23s.{ULID}",
    f"{'a' * 65}.{ULID}",
    quote(MARK),
    quote(f"{MARK}.{ULID}"),
]
PATHS = ["/chat/task/{}", "/chat/session/{}", "/chat/task/{}/cancel", "/chat/task/{}/retry"]


def at(gateway: Gateway, path: str, part: str, claims: dict[str, Any] = ALICE, query: str = "") -> Answer:
    method = "POST" if path.endswith(("/cancel", "/retry")) else "GET"
    return gateway.request(method, path.replace("{}", part) + query, claims=claims)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("trick", TRICKS, ids=[trick[:40] for trick in TRICKS])
def test_an_id_that_is_none_is_a_404(gateway: Gateway, path: str, trick: str) -> None:
    assert at(gateway, path, trick).status == 404


@examples()
@given(st.sampled_from(PATHS), st.text(min_size=1))
def test_any_text_for_an_id_is_a_404(gateway: Gateway, path: str, text: str) -> None:
    # A client may well ask for a session by a name that it never used; it must not be made by that.
    assert at(gateway, path, quote(text, safe="")).status == 404


VARIANTS = [
    str.lower,
    str.swapcase,
    lambda task_id: task_id + "%20",
    lambda task_id: task_id + "%0a",
    lambda task_id: task_id + "%00",
    lambda task_id: task_id + "/",
    lambda task_id: "./" + task_id,
    lambda task_id: "%20" + task_id,
    lambda task_id: "alice%23" + task_id,
    lambda task_id: task_id.replace("0", "O").replace("1", "I"),
    lambda task_id: task_id.replace("Mine", "M%C4%B1ne"),
    lambda task_id: task_id.replace(".", "%EF%BC%8E"),
    lambda task_id: task_id.replace(".", ".."),
]


@pytest.mark.parametrize("path", PATHS[::2])
@pytest.mark.parametrize("variant", VARIANTS, ids=map(str, range(len(VARIANTS))))
def test_a_task_has_one_name(gateway: Gateway, path: str, variant: Any) -> None:
    task_id = submit(gateway, session_id="Mine")
    assert at(gateway, path, variant(task_id)).status == 404
    assert at(gateway, "/chat/task/{}", task_id).json["status"] == "PENDING"


OWNERS = [
    "alice",
    "alice#",
    "#alice",
    "alice#s",
    "Alice",
    "alice ",
    "alice\n",
    "alic\u0435",
    "a",
    "*",
    "\0",
    "😀" * 200,
]


@pytest.mark.parametrize("path", PATHS)
def test_nobody_reaches_what_another_owns(gateway: Gateway, path: str) -> None:
    """Whatever the two are called, and though both use the same session, the answer is as if it did not exist."""
    for owner in OWNERS:
        task_id = submit(gateway, {"sub": owner}, session_id="s")
        for other in OWNERS:
            if other != owner:
                unknown = at(gateway, path, f"s.{ULID}", {"sub": other})
                if path != PATHS[1]:
                    answer = at(gateway, path, task_id, {"sub": other})
                    assert (answer.status, answer.body) == (404, unknown.body)
        seen = at(gateway, "/chat/session/{}", "s", {"sub": owner}).json["turns"]
        assert [turn["task_id"] for turn in seen] == [task_id] or path != PATHS[0]


@pytest.mark.parametrize("path", PATHS)
def test_an_id_with_a_piece_of_an_owner_in_it_reaches_nobody(gateway: Gateway, path: str) -> None:
    task_id = submit(gateway, {"sub": "alice#x"}, session_id="s")
    reached = at(gateway, path, f"x%23{'s' if path == PATHS[1] else task_id}", {"sub": "alice"})
    assert reached.status == 404


@examples()
@given(st.text(min_size=1), st.text(min_size=1), st.from_regex(r"\A[A-Za-z0-9_-]{1,64}\Z"))
def test_no_two_owners_have_a_key_in_common(one: str, other: str, session_id: str) -> None:
    keys = [Key.of_task(owner, f"{session_id}.{ULID}") for owner in (one, other)]
    assert all(keys)
    assert (keys[0] == keys[1]) == (one == other)
    assert keys[0] and (keys[0].owner, keys[0].session_id) == (one, session_id)


# ---- Queries

NO_NUMBERS = [
    "",
    "-1",
    "+1",
    "1.0",
    "1.5",
    "1e3",
    "0x10",
    "1_000",
    "%201",
    "1%0a",
    "1%00",
    "%D9%A3",  # an Arabic three
    "%EF%BC%95",  # a fullwidth five
    "%C2%B2",  # a superscript two
    "NaN",
    "Infinity",
    "true",
    "null",
    "[]",
    quote(MARK),
]


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_a_number_that_is_none_is_a_422(gateway: Gateway, text: str) -> None:
    task_id = submit(gateway, session_id="numbers")
    assert at(gateway, PATHS[0], task_id, query=f"?wait={text}").status == 422
    assert at(gateway, PATHS[1], "numbers", query=f"?limit={text}").status == 422


def test_a_number_that_comes_twice_is_a_422(gateway: Gateway) -> None:
    task_id = submit(gateway)
    assert at(gateway, PATHS[0], task_id, query="?wait=1&wait=2").status == 422


@pytest.mark.parametrize("text", ["100", "1000", "99999999999999999999", "9" * 5000, "0" * 5000 + "1"])
def test_a_number_beyond_the_most_is_taken_as_the_most(gateway: Gateway, text: str) -> None:
    task_id = submit(gateway, session_id="large-numbers")
    waited = at(gateway, PATHS[0], task_id, query=f"?wait={text}")
    assert waited.status == 200
    page = at(gateway, PATHS[1], "large-numbers", query=f"?limit={text}")
    assert page.status == 200 and page.json["turns"]


CURSORS = [
    "",
    "0",
    ULID.lower(),
    ULID + "0",
    f"{ULID}%0a",
    f"%20{ULID}",
    "%00",
    "..",
    f"{ULID},{ULID}",
    "9" * 26,
    quote(MARK),
]


@pytest.mark.parametrize("cursor", CURSORS)
def test_a_cursor_that_is_none_is_a_422(gateway: Gateway, cursor: str) -> None:
    submit(gateway, session_id="cursors")
    assert at(gateway, PATHS[1], "cursors", query=f"?cursor={cursor}").status == 422


@examples()
@given(st.sampled_from(["wait", "limit", "cursor", "async_mode", "more"]), st.text() | st.integers().map(str))
def test_any_query_is_answered_in_good_order(gateway: Gateway, name: str, value: str) -> None:
    query = f"?{name}={quote(value, safe='')}"
    assert at(gateway, PATHS[0], f"s.{ULID}", query=query).status in (404, 422)
    assert at(gateway, PATHS[1], "nobody", query=query).status in (200, 404, 422)
    assert chat(gateway, {}, query=query, message="").status == 422


@pytest.mark.parametrize("query", ["&&&", "=", "%", "wait", "a=b;c=d", "%ff=%ff", "wait[]=1", "a" * 8000, quote(MARK)])
def test_a_query_that_is_none_is_ignored(gateway: Gateway, query: str) -> None:
    assert at(gateway, "/health", "", query="?" + query).status == 200


@pytest.mark.parametrize("text", ["", "2", "tru", "True ", "truefalse", "true,false", "İ", "null", MARK])
def test_a_mode_that_is_none_is_a_422(gateway: Gateway, text: str) -> None:
    assert chat(gateway, {}, query=f"?async_mode={quote(text)}").status == 422


# ---- Headers

KEYS = [
    "",
    " ",
    '""',
    "a b",
    "a\tb",
    "a\r\nX-Injected: 1",
    "a\nb",
    "a\0b",
    "\x7f",
    "é",
    "\u043aey",
    "😀",
    "\ud800",
    "a" * 256,
    "a" * 10_240,
    '"' + "a" * 256 + '"',
    MARK,
]


@pytest.mark.parametrize("key", KEYS, ids=map(str, range(len(KEYS))))
def test_an_idempotency_key_that_is_none_is_a_422(gateway: Gateway, key: str) -> None:
    answer = chat(gateway, {"idempotency-key": key}, query="?async_mode=true")
    assert (answer.status, answer.json["code"]) == (422, "invalid_idempotency_key")


PREFERENCES = [
    "",
    ",",
    ";",
    "=",
    ",,;;==,",
    "respond-async" * 700,
    "respond-async," * 700,
    "wait",
    "wait=",
    'wait="',
    "wait=-1",
    "wait=1.5",
    "wait=99999999999999999999",
    "wait=\u0663",
    "wait=1;" + "x" * 10_000,
    "wait=1\r\nX-Injected: 1",
    "WAIT=0; x=y",
    "handling=strict",
    "return=minimal, wait=0",
    "\0",
    "\ud800",
    "é",
    MARK,
    f"wait={MARK}",
    f"{MARK}=1, respond-async",
]


@pytest.mark.parametrize("preference", PREFERENCES, ids=map(str, range(len(PREFERENCES))))
def test_a_preference_is_heeded_or_ignored_or_refused(gateway: Gateway, preference: str) -> None:
    answer = chat(gateway, {"prefer": preference})
    assert answer.status in (200, 202, 422)
    assert answer.headers.get("preference-applied", "wait=0").startswith(("wait=", "respond-async"))


NAMES = ["idempotency-key", "prefer", "content-type", "authorization", "x-forwarded-for", "accept", "cookie", "expect"]


@examples()
@given(st.dictionaries(st.sampled_from(NAMES) | st.text(), st.text() | st.just(MARK), max_size=4))
def test_any_headers_are_answered_in_good_order(gateway: Gateway, headers: dict[str, str]) -> None:
    answer = chat(gateway, headers, query="?async_mode=true")
    assert answer.status in (202, 415, 422)
    assert "x-injected" not in answer.headers


@examples(0.5)
@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=255))
def test_a_key_names_one_task_of_one_owner(gateway: Gateway, key: str) -> None:
    def submitted(claims: dict[str, Any] = ALICE, **members: Any) -> Any:
        headers = {"idempotency-key": f'"{key}"'}
        return chat(gateway, headers, query="?async_mode=true", claims=claims, **members).json

    task_id = submitted()["task_id"]
    assert submitted()["task_id"] == task_id != submitted({"sub": "bob"})["task_id"]
    assert submitted(message="another")["code"] == "idempotency_key_reused"


# ---- Tokens


@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", "Bearer ", "Bearer x", f"Basic {MARK}", token({})[:-3], "\ud800"]
)
def test_without_a_token_only_the_health_is_told(gateway: Gateway, authorization: str | None) -> None:
    headers = {} if authorization is None else {"authorization": authorization}
    for method, target in [("POST", "/chat"), ("POST", "/chat/"), ("GET", "/chat/task/a"), ("GET", "/chat/session/a")]:
        assert gateway.request(method, target, headers=headers).status == 401
    assert gateway.request("GET", "/health", headers=headers).status == 200


CLAIMS: list[Any] = [
    {},
    {"sub": ""},
    {"sub": None},
    {"sub": 0},
    {"sub": 7},
    {"sub": ["alice"]},
    {"sub": {"alice": 1}},
    {"sub": True},
    {"sub": "a" * 256},
    {"sub": "a" * 100_000},
    {"sub": "\ud800"},
    {"Sub": "alice"},
    None,
    [],
    "alice",
]


@pytest.mark.parametrize("claims", CLAIMS, ids=map(str, range(len(CLAIMS))))
@pytest.mark.parametrize(
    "event",
    [
        api_event("POST /chat"),
        api_event("GET /chat/task/{task_id}", path={"task_id": f"s.{ULID}"}),
        api_event("POST /chat/task/{task_id}/cancel", path={"task_id": f"s.{ULID}"}),
        api_event("POST /chat/task/{task_id}/retry", path={"task_id": f"s.{ULID}"}),
        api_event("GET /chat/session/{session_id}", path={"session_id": "s"}),
    ],
    ids=lambda event: event["routeKey"],
)
def test_a_token_without_a_name_is_a_401(gateway: Gateway, event: dict[str, Any], claims: Any) -> None:
    """As a function is told of it, should API Gateway ever hand it on."""
    event["requestContext"]["authorizer"]["jwt"]["claims"] = claims
    function = "submit" if event["routeKey"] in ("POST /chat", "POST /chat/task/{task_id}/retry") else "status"
    answer = gateway.invoke(function, event)
    assert (answer.status, answer.json["code"]) == (401, "unauthenticated")


@pytest.mark.parametrize("authorizer", [None, {}, {"jwt": None}, {"jwt": {}}, {"lambda": {"sub": "alice"}}])
def test_another_authorizer_is_a_401(gateway: Gateway, authorizer: Any) -> None:
    event = api_event("GET /chat/task/{task_id}", path={"task_id": f"s.{ULID}"})
    event["requestContext"]["authorizer"] = authorizer
    assert gateway.invoke("status", event).status == 401


@examples(0.5)
@given(sub=st.text(min_size=1, max_size=255) | st.integers() | st.lists(st.text(max_size=9)), more=st.text())
def test_any_owner_has_a_conversation_of_his_own(gateway: Gateway, sub: Any, more: str) -> None:
    claims = {"sub": sub, "iss": more, "scope": MARK}
    task_id = submit(gateway, claims)
    session_id = task_id.partition(".")[0]
    assert at(gateway, PATHS[0], task_id, claims).json["task_id"] == task_id
    assert len(at(gateway, PATHS[1], session_id, claims).json["turns"]) == 1
    assert at(gateway, PATHS[2], task_id, claims).json["error_code"] == "cancelled"


def test_an_owner_named_in_the_body_or_a_header_is_nobody(gateway: Gateway, functions: dict[str, ModuleType]) -> None:
    task_id = submit(gateway, {"sub": "carol"})
    for headers in ({"x-owner": "carol"}, {"sub": "carol"}, {"x-amzn-oidc-identity": "carol"}, {"cookie": "sub=carol"}):
        answer = gateway.request("GET", f"/chat/task/{task_id}?sub=carol&owner=carol", headers=headers, claims=ALICE)
        assert answer.status == 404
