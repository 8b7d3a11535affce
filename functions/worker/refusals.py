"""Sorts a provider's refusals by the reaction that they need. One table covers HTTP errors and error objects inside a
stream. The first matching rule decides, so rules for permanent errors stand above rules for temporary errors. The text
of an error can quote the prompt. So this module only compares the text with patterns, and nothing stores it."""

import asyncio
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import httpx2

from modelerror import ModelError

MAX_ERROR_BYTES = 64 * 1024
"""The maximum number of bytes that are read of an error's body. Large providers send less than 4 KB."""

_BODY_SECONDS = 5.0
_MATCHED_CHARACTERS = 4000

# The request fields that model.py can leave out, or send in another form.
_FIELDS = ("stream_options", "response_format", "temperature", "max_completion_tokens", "max_tokens")
_FIELD = rf"(?<![\w.])({'|'.join(_FIELDS)})(?!\w)|(json_schema|json_object|structured.outputs?)"


class Refusal(ModelError):
    """A ModelError for a refused call. `status`: the HTTP status or the status in the error (see `_said`), None if
    there is neither. `field`: the request field that the provider refuses, if the error names one of _FIELDS."""

    def __init__(self, code: str, *, status: int | None, field: str | None = None, **more: Any) -> None:
        super().__init__(code, **more)
        self.status = status
        self.field = field


class _Said(NamedTuple):
    """A provider's error. `names`: its codes and types, in lower case, with `_` between words. `text`: its messages."""

    status: int | None
    names: frozenset[str]
    text: str
    param: str | None


class Rule(NamedTuple):
    """Matches an error that has one of the statuses or names, or one of the phrases in its text. A phrase does not
    count if the text also contains one of `unless`, or if the status is in `not_for`. Python compiles the phrases with
    the first refusal and not at import, because that would slow down every cold start.
    """

    code: str
    statuses: frozenset[int] = frozenset()
    names: frozenset[str] = frozenset()
    phrases: str | None = None
    unless: str | None = None
    not_for: frozenset[int] = frozenset()

    def fits(self, said: _Said) -> bool:
        if said.status in self.statuses or said.names & self.names:
            return True
        if self.phrases is None or said.status in self.not_for or not _found(self.phrases, said.text):
            return False
        return self.unless is None or not _found(self.unless, said.text)


def _names(names: str) -> frozenset[str]:
    return frozenset(names.split())


def _phrases(*phrases: str) -> str:
    return "|".join(phrases)


def _found(pattern: str, text: str) -> re.Match[str] | None:
    return re.search(pattern, text, re.IGNORECASE)


# fmt: off
RULES = (
    # The quota is exhausted, or the bill is not paid. Google sends this error for a limit per minute too, but then says
    # when to try again.
    Rule(
        "model_quota", frozenset({402}),
        _names("insufficient_quota billing_hard_limit_reached billing_not_active billing_error insufficient_balance "
               "insufficient_credits insufficient_user_quota exceeded_current_quota_error payment_required arrearage "
               "credits_exhausted account_deactivated out_of_credits"),
        _phrases(r"exceeded your current quota", r"insufficient (account )?(balance|credits?|funds|quota)",
                 r"credit balance is too low", r"out of credits", r"payment required", r"spend(ing)? limit",
                 r"billing (hard )?limit", r"account is (in arrears|overdue)"),
        unless=_phrases(r"per.?minute", r"per.?second", r"(re)?try (again )?in \d"),
    ),
    # The key is wrong. Any status can carry this error: Google sends 400.
    Rule(
        "model_auth", frozenset({401, 407}),
        _names("invalid_api_key invalidapikey authentication_error invalid_authentication_error unauthenticated "
               "incorrect_api_key expired_api_key api_key_invalid authenticationerror invalid_token no_db_connection"),
        _phrases(r"(invalid|incorrect|expired|revoked) (x-)?api[ -]?key",
                 r"api[ _-]?key (is )?(not valid|invalid|expired)"),
    ),
    # The request is larger than the model's window, or than the number of tokens allowed a minute. Waiting does not
    # help.
    Rule(
        "context_too_long", frozenset({413}),
        _names("context_length_exceeded context_window_exceeded exceed_context_size_error string_above_max_length "
               "contextwindowexceedederror tokens_limit_reached request_too_large prompt_too_long input_too_long "
               "model_max_prompt_tokens_exceeded"),
        _phrases(r"(maximum|max|model'?s|available|with( a)?) context[ _-]?(length|window|size|limit)",
                 r"context[ _-]?(length|window|size|limit) (is |was )?(exceed|too|overflow|of only)",
                 r"exceeds? (the |its )?(model'?s |available )?(maximum )?context",
                 r"maximum (prompt|model|input) length", r"(prompt|input|conversation|request) is too (long|large)",
                 r"request too large", r"reduce the length of (the |your )?(messages|prompt|input)",
                 r"too many (input |prompt )?tokens", r"input token count .{0,40}exceeds", r"\bn_ctx\b",
                 r"inputs?`? tokens \+ `?max_new_tokens`? must be", r"range of input length should be",
                 r"too large for model with .{0,40}context"),
        unless=_phrases(r"wait before", r"try(ing)? again"),
    ),
    # The provider declines to answer this prompt.
    Rule(
        "prompt_refused", frozenset({451}),
        _names("content_filter content_policy_violation responsibleaipolicyviolation data_inspection_failed "
               "datainspectionfailed moderation_blocked content_filtered invalid_prompt content_blocked safety "
               "prohibited_content content_moderation_failed moderation_error"),
        _phrases(r"content (management |usage )?polic(y|ies)", r"usage polic(y|ies)", r"content exists risk",
                 r"(input|prompt|request|content|text|message).{0,40} flagged", r"safety (system|reasons|filter)",
                 r"inappropriate content"),
    ),
    # Temporary errors.
    Rule(
        "model_rate_limited", frozenset({429}),
        _names("rate_limit_exceeded rate_limit_error rate_limit_reached ratelimiterror ratelimitreached "
               "too_many_requests resource_exhausted throttling throttling_error throttlingexception "
               "throttling_ratequota tokens requests engine_overloaded_error"),
        _phrases(r"rate.?limit", r"too many requests", r"too many tokens", r"throttl"),
        not_for=frozenset({400, 404, 405, 415, 422}),
    ),
    Rule(
        "model_auth", frozenset({403}),
        _names("permission_error permission_denied permissiondeniederror access_denied accessdenied forbidden "
               "unsupported_country_region_territory"),
    ),
    Rule("model_unavailable", frozenset({408, 409, 423, 425})),
    # The provider understood the request and refuses it. Some gateways send a 5xx status for this.
    Rule(
        "model_rejected",
        frozenset({*range(300, 500), 501, 505}),
        _names("invalid_request_error invalid_argument badrequesterror bad_request not_found_error model_not_found "
               "notfounderror unsupported_parameter unsupported_value invalid_value unknown_parameter "
               "unprocessable_entity validation_error failed_precondition not_implemented"),
        _phrases(r"model .{0,80}(does not exist|not found)", r"unknown model", r"unsupported (parameter|value)",
                 # If a model without vision gets an image, llama.cpp and Ollama send a server error.
                 r"image input is not supported", r"required for image input", r"unsupported content part type"),
    ),
    # All other errors are temporary too: 5xx, and errors that give no reason.
    Rule("model_unavailable", phrases=""),
)
# fmt: on
"""The first rule that fits decides. tests/unit/test_refusals.py has a row for each known error of a provider."""

PASSING = ("model_rate_limited", "model_unavailable")


def refusal(
    status: int | None,
    error: object,
    *,
    begun: bool = False,
    retry_after: float | None = None,
    request_id: str | None = None,
) -> Refusal:
    """The ModelError for a provider's error. `status`: the HTTP status; None for an error inside a stream. `error`: the
    error as parsed JSON or text. `begun`: whether the provider had already sent a part of the answer."""
    said = _said(status, error)
    code = next(rule.code for rule in RULES if rule.fits(said))
    passing = code in PASSING
    return Refusal(
        code,
        status=said.status,
        field=_field(said) if code == "model_rejected" and said.status in (None, 400, 422) else None,
        retry_after=retry_after if passing else None,
        refused=passing and not begun,
        request_id=request_id,
    )


async def body(response: httpx2.Response) -> bytes:
    """Read the body of an error. Returns the bytes that came within _BODY_SECONDS, at most MAX_ERROR_BYTES."""
    found = b""
    with suppress(TimeoutError, httpx2.HTTPError):
        async with asyncio.timeout(_BODY_SECONDS):
            async for piece in response.aiter_raw():
                found += piece
                if len(found) >= MAX_ERROR_BYTES:
                    break
    return found[:MAX_ERROR_BYTES]


def parsed(body: bytes) -> object:
    """The body of an error: as a parsed value if it is JSON, None if it is a page of HTML, otherwise as text."""
    text = body.decode("utf-8", "replace").strip()
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None if text.startswith("<") else text


def _said(status: int | None, error: object) -> _Said:
    """An error in the form of OpenAI ({"error": {...}}), vLLM ({"object": "error", ...}), FastAPI ({"detail": ...}),
    Google ([{"error": {...}}]) or Ollama ({"error": "text"})."""
    if isinstance(error, list) and error:
        error = error[0]
    outer = error if isinstance(error, Mapping) else {}
    inner = outer.get("error") or outer.get("detail") or error
    if isinstance(inner, str):
        details: Mapping[str, Any] = {**outer, "message": inner}
    elif isinstance(inner, list):  # FastAPI sends one error for each field; leave out the quoted input
        details = {"message": " ".join(_field_error(each) for each in inner[:10] if isinstance(each, Mapping))}
    else:
        details = inner if isinstance(inner, Mapping) else {}
    nested = [details.get(name) for name in ("innererror", "inner_error")]
    sources = [details, *(each for each in nested if isinstance(each, Mapping))]
    values = [source.get(name) for source in sources for name in ("code", "type", "status")]
    names = frozenset(re.sub(r"[\s.-]+", "_", value.strip().lower()) for value in values if isinstance(value, str))
    numbers = [int(value) for value in map(str, values) if re.fullmatch("[345][0-9][0-9]", value)]
    told_status = numbers[0] if numbers else None
    # The error's status counts if the HTTP status is a success, or a gateway's 5xx status that hides a refusal (4xx).
    if told_status and (status is None or status < 300 or (status >= 500 and told_status < 500)):
        status = told_status
    texts = (details.get(name) for name in ("message", "msg", "error_description"))
    param = details.get("param")
    return _Said(
        status,
        names,
        " ".join(text for text in texts if isinstance(text, str))[:_MATCHED_CHARACTERS],
        param if isinstance(param, str) else None,
    )


def _field_error(each: Mapping[str, Any]) -> str:
    where = each.get("loc")
    parts = [part for part in where if isinstance(part, str)] if isinstance(where, list) else []
    message = each.get("msg")
    return f"{' '.join(parts)}: {message if isinstance(message, str) else ''}"


def _field(said: _Said) -> str | None:
    for text in (said.param, said.text):
        if text and (found := _found(_FIELD, text)):
            name, form = found.groups()
            return "response_format" if form else str(name).lower()
    return None
