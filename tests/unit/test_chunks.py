"""How a piece of a streamed answer is parsed, also in unusual forms."""

from typing import Any

import pytest

from chunks import BROKEN_OFF, Chunk

NOTHING = Chunk(model="", content="", thoughts="", refused=False, finish_reason=None, usage={}, error=None)


def delta(**members: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": members, "finish_reason": None}]}


def test_a_chunk_as_it_should_be() -> None:
    said = {"model": "m", "choices": [{"index": 0, "delta": {"content": "Hel"}, "finish_reason": None}], "usage": None}
    assert Chunk.of(said) == NOTHING._replace(model="m", content="Hel")

    usage = {"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 3}}
    last = {"model": "m", "choices": [{"delta": {}, "finish_reason": "stop"}], "usage": usage}
    counts = {"prompt_tokens": 7, "completion_tokens": 2, "cached_tokens": 3}
    assert Chunk.of(last) == NOTHING._replace(model="m", finish_reason="stop", usage=counts)

    assert Chunk.of({"choices": [{"delta": {"refusal": "I will not"}}]}).refused


def test_a_completion_is_read_like_a_chunk() -> None:
    whole = {"choices": [{"message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}]}

    assert Chunk.of(whole) == NOTHING._replace(content="Hello", finish_reason="stop")


@pytest.mark.parametrize(
    "data",
    [
        None,
        5,
        [],
        {},
        {"choices": None, "usage": []},
        {"choices": ["x"], "model": 5},
        {"choices": [{"delta": None, "finish_reason": 0}]},
        {"choices": [{"delta": {"content": 5, "refusal": None, "reasoning": 5}, "finish_reason": ""}]},
        {"choices": [{"delta": {"content": [5, None, {"type": "text", "text": 5}, {"type": "thinking"}]}}]},
        {"choices": [{"delta": {"content": [{"type": "image_url", "text": "x"}]}}]},
    ],
)
def test_what_is_in_another_form_is_not_there(data: Any) -> None:
    assert Chunk.of(data) == NOTHING


@pytest.mark.parametrize(
    "parts",
    [["Hel", "lo"], [{"type": "text", "text": "Hello"}], [{"type": "output_text", "text": "Hel"}, {"text": "lo"}]],
)
def test_content_may_come_as_parts(parts: list[Any]) -> None:
    assert Chunk.of(delta(content=parts)) == NOTHING._replace(content="Hello")


@pytest.mark.parametrize(
    "members",
    [
        {"content": None, "reasoning_content": "hmm"},
        {"content": "", "reasoning": "hmm"},
        {"content": "", "reasoning": "hmm", "reasoning_details": [{"type": "reasoning.text", "text": "hmm"}]},
        {"thinking": "hmm"},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hmm"}]}]},
        {"content": [{"type": "thinking", "thinking": "hmm"}]},
        {"content": [{"type": "reasoning", "text": "hmm"}]},
    ],
)
def test_thoughts_are_no_content(members: dict[str, Any]) -> None:
    assert Chunk.of(delta(**members)) == NOTHING._replace(thoughts="hmm")


REASONS = {
    "stop": ["stop", "STOP", "eos_token", "end_turn"],
    "length": ["length", "MAX_TOKENS", "model_length"],
    "content_filter": ["content_filter", "SAFETY"],
    "tool_calls": ["tool_calls"],
    "function_call": ["function_call"],
    BROKEN_OFF: ["error", "abort", "insufficient_system_resource", "upstream_timeout"],
    None: ["", "null", "y" * 400_000, "a reason of tomorrow"],
}


@pytest.mark.parametrize("read", REASONS)
def test_only_known_reasons_end_an_answer(read: str | None) -> None:
    for told in REASONS[read]:
        assert Chunk.of({"choices": [{"delta": {}, "finish_reason": told}]}).finish_reason == read, told[:30]


@pytest.mark.parametrize(
    ("usage", "cached"),
    [
        ({"prompt_tokens_details": {"cached_tokens": 3}}, 3),
        ({"prompt_cache_hit_tokens": 4, "prompt_cache_miss_tokens": 3}, 4),
        ({"prompt_tokens_details": None}, None),
        ({}, None),
    ],
)
@pytest.mark.parametrize("inside", [True, False])
def test_usage_is_read_wherever_it_stands(usage: dict[str, Any], cached: int | None, inside: bool) -> None:
    usage = {"prompt_tokens": 7, **usage}
    chunk = {"choices": [{"delta": {}, "usage": usage}]} if inside else {"choices": [], "usage": usage}

    assert Chunk.of(chunk).usage == {"prompt_tokens": 7, "completion_tokens": None, "cached_tokens": cached}


WHOLE = [{"error": "no"}, {"error": "no", "code": 502}, {"object": "error", "message": "no"}]


@pytest.mark.parametrize(
    ("data", "error"),
    [
        *((error, error) for error in WHOLE),
        ({"error": {"message": "no"}}, {"message": "no"}),
        ({"choices": [{"delta": {}, "error": {"code": 502}}]}, {"code": 502}),
        ({"error": None}, None),
        ({"error": {}}, None),
    ],
)
def test_an_error_is_read_in_every_form(data: Any, error: Any) -> None:
    assert Chunk.of(data).error == error
