"""How the worker reacts to a provider's refusal: a row for each kind, in the providers' words."""

import json
from typing import Any

import pytest

from refusals import RULES, parsed, refusal
from turnqueue.turn import FAILURES


def openai(
    message: str = "", code: Any = None, kind: str | None = "invalid_request_error", param: str | None = None
) -> Any:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


VLLM_CONTEXT = (
    "This model's maximum context length is 8192 tokens. However, you requested 9001 tokens (8001 in the messages, "
    "1000 in the completion). Please reduce the length of the messages or completion."
)
TOO_LARGE = (
    "Request too large for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Requested 46002. The "
    "input or output tokens must be reduced in order to run successfully."
)
RATE = (
    "Rate limit reached for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Used 29900, Requested "
    "600. Please try again in 1s. Visit https://platform.openai.com/account/rate-limits to learn more."
)
GOOGLE_RATE = (
    "You exceeded your current quota, please check your plan and billing details. * Quota exceeded for metric: "
    "generate_requests_per_model, limit: 10. Please retry in 41.2s."
)


def coded(code: Any, message: str = "no", **more: Any) -> dict[str, Any]:
    """An error with a number or a name, as OpenRouter, Azure and llama.cpp send it."""
    return {"error": {"code": code, "message": message, **more}}


def plain(message: str, **more: Any) -> dict[str, Any]:
    """An error that is not in a member, as vLLM and Mistral send it."""
    return {"object": "error", "message": message, **more}


def anthropic(message: str, kind: str = "invalid_request_error") -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}}


# By code: status (None: inside a stream), and what was said
ROWS: dict[str, dict[str, tuple[int | None, Any]]] = {
    # No repetition can change these.
    "model_quota": {
        "OpenAI: quota by code": (429, openai("", "insufficient_quota", "insufficient_quota")),
        "OpenAI: quota by type": (429, openai("", None, "insufficient_quota")),
        "OpenAI: billing limit": (400, openai("", "billing_hard_limit_reached")),
        "OpenRouter: 402": (402, coded(402, "Insufficient credits")),
        "DeepSeek: 402": (402, openai("Insufficient Balance", "invalid_request_error", "unknown_error")),
        "Moonshot: quota by type": (429, openai("suspended", None, "exceeded_current_quota_error")),
        "Anthropic: billing": (400, anthropic("Your credit balance is too low")),
        "one-api: quota with 403": (403, openai("no", "insufficient_user_quota", "one_api_error")),
        "quota by phrase alone": (429, openai("You exceeded your current quota.", None, None)),
        "quota in a stream": (None, openai("", None, "insufficient_quota")),
        "402 in a stream": (None, coded(402)),
        "a page that demands payment": (402, None),
    },
    "model_auth": {
        "OpenAI: key": (401, openai("Incorrect API key provided", "invalid_api_key")),
        "LiteLLM: an unknown key, without a database": (400, openai("No connected db.", "400", "no_db_connection")),
        "any 401": (401, None),
        "any 403": (403, None),
        "Google: key with 400": (400, [coded(400, "API key not valid. Please pass a valid API key.")]),
        "LiteLLM: key as a 500": (500, openai("AuthenticationError: Incorrect API key", None, "None")),
        "key in a stream": (None, openai("no", None, "authentication_error")),
        "a country": (403, openai("no", "unsupported_country_region_territory", "request_forbidden")),
    },
    "context_too_long": {
        "OpenAI: by code": (400, openai("", "context_length_exceeded")),
        "vLLM": (400, plain(VLLM_CONTEXT, type="BadRequestError", param=None, code=400)),
        "vLLM: the longest prompt": (
            400,
            plain("The decoder prompt (length 9000) is longer than the maximum model length of 8192."),
        ),
        "llama.cpp: by type": (400, coded(400, "too big", type="exceed_context_size_error", n_ctx=4096)),
        "llama.cpp: as a 500": (
            500,
            coded(500, "the request exceeds the available context size", type="server_error"),
        ),
        "Mistral": (
            400,
            plain("Prompt contains 40000 tokens, too large for model with 32768 maximum context length", code=3051),
        ),
        "Anthropic": (400, anthropic("prompt is too long: 210000 tokens > 200000 maximum")),
        "Google": (
            400,
            [coded(400, "The input token count (1200000) exceeds the maximum number of tokens allowed")],
        ),
        "xAI": (400, {"code": "invalid argument", "error": "This model's maximum prompt length is 131072"}),
        "TGI": (422, {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096"}),
        "DashScope": (400, openai("Range of input length should be [1, 129024]")),
        "Bedrock": (400, {"message": "Input is too long for requested model."}),
        "LM Studio": (400, {"error": "the model is loaded with context length of only 4096 tokens"}),
        "SGLang": (
            400,
            plain("The input (9000 tokens) is longer than the model's context length (8192 tokens)."),
        ),
        "in a stream": (None, coded(400, VLLM_CONTEXT)),
        "OpenAI: larger than the limit a minute": (429, openai(TOO_LARGE, "rate_limit_exceeded", "tokens")),
        "Groq: larger than the limit a minute": (413, openai(TOO_LARGE, "rate_limit_exceeded", "tokens")),
        "a body that nginx does not take": (413, None),
    },
    "prompt_refused": {
        "OpenAI: filter": (400, openai("", "content_policy_violation")),
        "Azure: filter": (400, coded("content_filter", "The response was filtered due to our policy.")),
        "Azure: only the inner code": (
            400,
            coded("BadRequest", innererror={"code": "ResponsibleAIPolicyViolation"}),
        ),
        "DeepSeek: filter": (400, openai("Content Exists Risk")),
        "DashScope: filter": (400, openai("May contain inappropriate content.", "data_inspection_failed")),
        "OpenRouter: moderation with 403": (403, coded(403, "Your input was flagged for violence")),
        "filter in a stream": (None, openai("no", "content_filter")),
    },
    "model_rejected": {
        "a model that is not there": (404, openai("The model `x` does not exist", "model_not_found")),
        "a model that is not there, as a 500": (500, {"error": "model 'x' not found, try pulling it first"}),
        "any 400": (400, None),
        "any 404": (404, None),
        "any 422": (
            422,
            {"detail": [{"loc": ["body", "top_k"], "msg": "extra fields", "input": "rate limit"}]},
        ),
        "a redirect": (307, None),
        "501": (501, None),
        "a 400 that a gateway hides": (502, coded(400)),
        "llama.cpp: an image, without vision": (500, coded(500, "image input is not supported - hint: …")),
        "llama.cpp: an image, before it knew any": (
            500,
            openai("Failed to parse messages: Unsupported content part type: image_url", 500, "server_error"),
        ),
        "Ollama: an image, without vision": (
            500,
            openai("this model is missing data required for image input", None, "api_error"),
        ),
        "a bad request in a stream": (None, openai("no")),
        "a 400 that speaks of rate limits": (400, openai("Unknown parameter: 'rate_limit_tier'.")),
    },
    # These pass.
    "model_rate_limited": {
        "OpenAI: rate": (429, openai(RATE, "rate_limit_exceeded", "tokens")),
        "Azure: rate": (429, coded("429", "exceeded call rate limit. Please retry after 26 seconds.")),
        "Google: rate": (429, [coded(429, GOOGLE_RATE, status="RESOURCE_EXHAUSTED")]),
        "Bedrock: rate": (429, {"message": "Too many tokens, please wait before trying again."}),
        "GitHub: rate with 403": (403, {"message": "You have exceeded a secondary rate limit."}),
        "any 429": (429, None),
        "rate in a stream, by number": (None, coded(429, "slow down")),
        "rate in a stream, by type": (None, openai("slow down", None, "rate_limit_error")),
    },
    "model_unavailable": {
        "Anthropic: overloaded": (529, anthropic("Overloaded", "overloaded_error")),
        "OpenAI: 500": (500, openai("The server had an error", None, "server_error")),
        "llama.cpp: loading": (503, coded(503, "Loading model", type="unavailable_error")),
        "a page of a proxy": (502, None),
        "408": (408, None),
        "409, by the type of a bad request": (409, openai("no")),
        "409": (409, None),
        "425": (425, None),
        "504": (504, "upstream request timeout"),
        "overloaded in a stream": (None, openai("overloaded", None, "server_error")),
        "OpenRouter: 502 in a stream": (None, coded(502, "Provider returned error")),
        "no reason in a stream": (None, {"error": True}),
    },
}


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [pytest.param(code, *row, id=name) for code, rows in ROWS.items() for name, row in rows.items()],
)
def test_a_refusal_is_sorted(code: str, status: int | None, error: Any) -> None:
    found = refusal(status, error, retry_after=3)

    assert found.code == code
    passing = code in ("model_rate_limited", "model_unavailable")
    assert FAILURES[code].retryable is passing
    assert (found.refused, found.retry_after) == ((True, 3) if passing else (False, None))


def test_every_rule_has_rows() -> None:
    assert {rule.code for rule in RULES} == set(ROWS)


def test_after_a_part_of_the_answer_nothing_was_turned_away() -> None:
    assert not refusal(None, {"error": {"code": 502}}, begun=True).refused


@pytest.mark.parametrize(
    ("error", "field"),
    [
        (
            openai("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.", param="max_tokens"),
            "max_tokens",
        ),
        (openai("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."), "max_tokens"),
        (
            openai("'temperature' does not support 0.2 with this model.", "unsupported_value", param="temperature"),
            "temperature",
        ),
        (
            {"detail": [{"loc": ["body", "stream_options"], "msg": "Extra inputs", "input": "temperature"}]},
            "stream_options",
        ),
        ({"object": "error", "message": "[{'loc': ('body', 'stream_options', 'include_usage')}]"}, "stream_options"),
        (
            openai("Invalid parameter: 'response_format' of type 'json_schema'", param="response_format"),
            "response_format",
        ),
        (openai("This model does not support json_schema."), "response_format"),
        (openai('Unknown name "stream_options": Cannot find field.'), "stream_options"),
        (openai("no"), None),
        (openai("max_tokenserror"), None),
    ],
)
@pytest.mark.parametrize("status", [400, 422, None])
def test_a_refusal_names_a_field(status: int | None, error: Any, field: str | None) -> None:
    found = refusal(status, error)

    assert found.field == (field if found.code == "model_rejected" else None)
    assert found.code == "model_rejected" or (status is None and "type" not in error.get("error", {}))


@pytest.mark.parametrize("status", [401, 404, 429, 500])
def test_other_statuses_name_no_field(status: int) -> None:
    assert refusal(status, openai("max_tokens")).field is None


def test_what_a_server_quotes_is_not_read() -> None:
    quoted = {"detail": [{"loc": ["body"], "msg": "Field required", "input": {"temperature": 1, "text": "rate limit"}}]}

    assert (refusal(422, quoted).code, refusal(422, quoted).field) == ("model_rejected", None)


@pytest.mark.parametrize(
    "error", [5, [], [5], {"error": {"code": [], "message": {}, "type": 5}}, {"detail": [5]}, {"detail": [{"loc": 5}]}]
)
def test_errors_of_any_form_are_sorted(error: Any) -> None:
    assert refusal(503, error).code == "model_unavailable"


@pytest.mark.parametrize(
    ("body", "known"),
    [
        (b'{"error": "x"}', {"error": "x"}),
        (b"upstream error", "upstream error"),
        (b"<!DOCTYPE html><p>content policy", None),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"[" * 60_000, "[" * 60_000),
        (json.dumps({"error": {"message": "cut"}}).encode()[:-3], '{"error": {"message": "cut'),
    ],
)
def test_the_body_of_an_error(body: bytes, known: object) -> None:
    assert parsed(body) == known
