"""What is read of a piece of a streamed answer, whatever a server makes of the form."""

from typing import Any

import pytest

from chunks import Chunk

NOTHING = Chunk(model="", content="", refused=False, finish_reason=None, usage={})


def test_a_chunk_as_it_should_be() -> None:
    said = {"model": "m", "choices": [{"index": 0, "delta": {"content": "Hel"}, "finish_reason": None}], "usage": None}
    assert Chunk.of(said) == NOTHING._replace(model="m", content="Hel")

    usage = {"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 3}}
    last = {"model": "m", "choices": [{"delta": {}, "finish_reason": "stop"}], "usage": usage}
    counts = {"prompt_tokens": 7, "completion_tokens": 2, "cached_tokens": 3}
    assert Chunk.of(last) == NOTHING._replace(model="m", finish_reason="stop", usage=counts)

    assert Chunk.of({"choices": [{"delta": {"refusal": "I will not"}}]}).refused


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
        {"choices": [{"delta": {"content": ["x"], "refusal": None}, "finish_reason": ""}]},
    ],
)
def test_what_is_in_another_form_is_not_there(data: Any) -> None:
    assert Chunk.of(data) == NOTHING


def test_a_count_that_is_missing_is_null() -> None:
    usage = {"prompt_tokens": 7, "prompt_tokens_details": None}
    assert Chunk.of({"usage": usage}).usage == {"prompt_tokens": 7, "completion_tokens": None, "cached_tokens": None}
