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

# status (None: inside a stream), what was said, the code
ROWS: dict[str, tuple[int | None, Any, str]] = {
    # No repetition can change these.
    "OpenAI: quota by code": (429, openai("", "insufficient_quota", "insufficient_quota"), "model_quota"),
    "OpenAI: quota by type": (429, openai("", None, "insufficient_quota"), "model_quota"),
    "OpenAI: billing limit": (400, openai("", "billing_hard_limit_reached"), "model_quota"),
    "OpenRouter: 402": (402, {"error": {"code": 402, "message": "Insufficient credits"}}, "model_quota"),
    "DeepSeek: 402": (402, openai("Insufficient Balance", "invalid_request_error", "unknown_error"), "model_quota"),
    "Moonshot: quota by type": (429, openai("suspended", None, "exceeded_current_quota_error"), "model_quota"),
    "Anthropic: billing": (
        400,
        {"type": "error", "error": {"type": "invalid_request_error", "message": "Your credit balance is too low"}},
        "model_quota",
    ),
    "one-api: quota with 403": (403, openai("no", "insufficient_user_quota", "one_api_error"), "model_quota"),
    "quota by phrase alone": (429, openai("You exceeded your current quota.", None, None), "model_quota"),
    "quota in a stream": (None, openai("", None, "insufficient_quota"), "model_quota"),
    "402 in a stream": (None, {"error": {"code": 402, "message": "no"}}, "model_quota"),
    "a page that demands payment": (402, None, "model_quota"),
    "OpenAI: key": (401, openai("Incorrect API key provided", "invalid_api_key"), "model_auth"),
    "LiteLLM: an unknown key, without a database": (
        400,
        openai("No connected db.", "400", "no_db_connection"),
        "model_auth",
    ),
    "any 401": (401, None, "model_auth"),
    "any 403": (403, None, "model_auth"),
    "Google: key with 400": (
        400,
        [
            {
                "error": {
                    "code": 400,
                    "message": "API key not valid. Please pass a valid API key.",
                    "status": "INVALID_ARGUMENT",
                }
            }
        ],
        "model_auth",
    ),
    "LiteLLM: key as a 500": (500, openai("AuthenticationError: Incorrect API key", None, "None"), "model_auth"),
    "key in a stream": (None, openai("no", None, "authentication_error"), "model_auth"),
    "a country": (403, openai("no", "unsupported_country_region_territory", "request_forbidden"), "model_auth"),
    "OpenAI: context by code": (400, openai("", "context_length_exceeded"), "context_too_long"),
    "vLLM: context": (
        400,
        {"object": "error", "message": VLLM_CONTEXT, "type": "BadRequestError", "param": None, "code": 400},
        "context_too_long",
    ),
    "vLLM: the longest prompt": (
        400,
        {
            "object": "error",
            "message": "The decoder prompt (length 9000) is longer than the maximum model length of 8192.",
        },
        "context_too_long",
    ),
    "llama.cpp: context by type": (
        400,
        {"error": {"code": 400, "message": "too big", "type": "exceed_context_size_error", "n_ctx": 4096}},
        "context_too_long",
    ),
    "llama.cpp: context as a 500": (
        500,
        {"error": {"code": 500, "message": "the request exceeds the available context size", "type": "server_error"}},
        "context_too_long",
    ),
    "Mistral: context": (
        400,
        {
            "object": "error",
            "message": "Prompt contains 40000 tokens, too large for model with 32768 maximum context length",
            "type": "invalid_request_prompt",
            "code": 3051,
        },
        "context_too_long",
    ),
    "Anthropic: context": (
        400,
        {"error": {"type": "invalid_request_error", "message": "prompt is too long: 210000 tokens > 200000 maximum"}},
        "context_too_long",
    ),
    "Google: context": (
        400,
        [
            {
                "error": {
                    "code": 400,
                    "message": "The input token count (1200000) exceeds the maximum number of tokens allowed",
                }
            }
        ],
        "context_too_long",
    ),
    "xAI: context": (
        400,
        {"code": "Client specified an invalid argument", "error": "This model's maximum prompt length is 131072"},
        "context_too_long",
    ),
    "TGI: context": (
        422,
        {
            "error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096",
            "error_type": "validation",
        },
        "context_too_long",
    ),
    "DashScope: context": (400, openai("Range of input length should be [1, 129024]"), "context_too_long"),
    "Bedrock: context": (400, {"message": "Input is too long for requested model."}, "context_too_long"),
    "LM Studio: context": (
        400,
        {"error": "the model is loaded with context length of only 4096 tokens"},
        "context_too_long",
    ),
    "SGLang: context": (
        400,
        {
            "object": "error",
            "message": "The input (9000 tokens) is longer than the model's context length (8192 tokens).",
        },
        "context_too_long",
    ),
    "context in a stream": (None, {"error": {"message": VLLM_CONTEXT, "code": 400}}, "context_too_long"),
    "OpenAI: larger than the limit a minute": (
        429,
        openai(TOO_LARGE, "rate_limit_exceeded", "tokens"),
        "context_too_long",
    ),
    "Groq: larger than the limit a minute": (
        413,
        openai(TOO_LARGE, "rate_limit_exceeded", "tokens"),
        "context_too_long",
    ),
    "a body that nginx does not take": (413, None, "context_too_long"),
    "OpenAI: filter": (400, openai("", "content_policy_violation"), "prompt_refused"),
    "Azure: filter": (
        400,
        {
            "error": {
                "code": "content_filter",
                "message": "The response was filtered due to Azure OpenAI's content management policy.",
                "innererror": {"code": "ResponsibleAIPolicyViolation"},
            }
        },
        "prompt_refused",
    ),
    "Azure: only the inner code": (
        400,
        {"error": {"code": "BadRequest", "innererror": {"code": "ResponsibleAIPolicyViolation"}}},
        "prompt_refused",
    ),
    "DeepSeek: filter": (400, openai("Content Exists Risk"), "prompt_refused"),
    "DashScope: filter": (
        400,
        openai("Input data may contain inappropriate content.", "data_inspection_failed"),
        "prompt_refused",
    ),
    "OpenRouter: moderation with 403": (
        403,
        {"error": {"code": 403, "message": "This model requires moderation. Your input was flagged for violence"}},
        "prompt_refused",
    ),
    "filter in a stream": (None, openai("no", "content_filter"), "prompt_refused"),
    "a model that is not there": (404, openai("The model `x` does not exist", "model_not_found"), "model_rejected"),
    "a model that is not there, as a 500": (
        500,
        {"error": "model 'x' not found, try pulling it first"},
        "model_rejected",
    ),
    "any 400": (400, None, "model_rejected"),
    "any 404": (404, None, "model_rejected"),
    "any 422": (
        422,
        {"detail": [{"loc": ["body", "top_k"], "msg": "extra fields", "input": "rate limit"}]},
        "model_rejected",
    ),
    "a redirect": (307, None, "model_rejected"),
    "501": (501, None, "model_rejected"),
    "a 400 that a gateway hides": (502, {"error": {"code": 400, "message": "no"}}, "model_rejected"),
    "llama.cpp: an image, without vision": (
        500,
        {"error": {"code": 500, "message": "image input is not supported - hint: …", "type": "server_error"}},
        "model_rejected",
    ),
    "llama.cpp: an image, before it knew any": (
        500,
        openai("Failed to parse messages: Unsupported content part type: image_url", 500, "server_error"),
        "model_rejected",
    ),
    "Ollama: an image, without vision": (
        500,
        openai("this model is missing data required for image input", None, "api_error"),
        "model_rejected",
    ),
    "a bad request in a stream": (None, openai("no"), "model_rejected"),
    "a 400 that speaks of rate limits": (400, openai("Unknown parameter: 'rate_limit_tier'."), "model_rejected"),
    # These pass.
    "OpenAI: rate": (429, openai(RATE, "rate_limit_exceeded", "tokens"), "model_rate_limited"),
    "Azure: rate": (
        429,
        {"error": {"code": "429", "message": "exceeded call rate limit. Please retry after 26 seconds."}},
        "model_rate_limited",
    ),
    "Google: rate": (
        429,
        [{"error": {"code": 429, "message": GOOGLE_RATE, "status": "RESOURCE_EXHAUSTED"}}],
        "model_rate_limited",
    ),
    "Bedrock: rate": (429, {"message": "Too many tokens, please wait before trying again."}, "model_rate_limited"),
    "GitHub: rate with 403": (403, {"message": "You have exceeded a secondary rate limit."}, "model_rate_limited"),
    "any 429": (429, None, "model_rate_limited"),
    "rate in a stream, by number": (None, {"error": {"code": 429, "message": "slow down"}}, "model_rate_limited"),
    "rate in a stream, by type": (None, openai("slow down", None, "rate_limit_error"), "model_rate_limited"),
    "Anthropic: overloaded": (
        529,
        {"error": {"type": "overloaded_error", "message": "Overloaded"}},
        "model_unavailable",
    ),
    "OpenAI: 500": (500, openai("The server had an error", None, "server_error"), "model_unavailable"),
    "llama.cpp: loading": (
        503,
        {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}},
        "model_unavailable",
    ),
    "a page of a proxy": (502, None, "model_unavailable"),
    "408": (408, None, "model_unavailable"),
    "409, by the type of a bad request": (409, openai("no"), "model_unavailable"),
    "409": (409, None, "model_unavailable"),
    "425": (425, None, "model_unavailable"),
    "504": (504, "upstream request timeout", "model_unavailable"),
    "overloaded in a stream": (None, openai("overloaded", None, "server_error"), "model_unavailable"),
    "OpenRouter: 502 in a stream": (
        None,
        {"error": {"code": 502, "message": "Provider returned error"}},
        "model_unavailable",
    ),
    "no reason in a stream": (None, {"error": True}, "model_unavailable"),
}


@pytest.mark.parametrize(("status", "error", "code"), ROWS.values(), ids=ROWS)
def test_a_refusal_is_sorted(status: int | None, error: Any, code: str) -> None:
    found = refusal(status, error, retry_after=3)

    assert found.code == code
    passing = code in ("model_rate_limited", "model_unavailable")
    assert FAILURES[code].retryable is passing
    assert (found.refused, found.retry_after) == ((True, 3) if passing else (False, None))


def test_every_rule_has_rows() -> None:
    assert {rule.code for rule in RULES} == {code for *_, code in ROWS.values()}


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
