"""Identifies the caller of the OpenAI API: the owner of an API key, or of a token of the stack's issuer.

API Gateway caches each result for a minute, so a revoked key works for up to a minute. If this function refuses a
caller, API Gateway answers 403. If this function fails, it answers 500.
"""

import os
from typing import Any

from turnqueue.api_keys import ApiKeys
from turnqueue.callers import Callers, Tokens
from turnqueue.telemetry import observed

callers = Callers(
    ApiKeys(os.environ["GUARDS_TABLE"], attempts=2),
    Tokens(os.environ["JWT_ISSUER"], os.environ["JWT_AUDIENCE"]),
    os.environ["LIMIT_GROUP_CLAIM"],
)


@observed
def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """The authorizer's response, in the simple form of HTTP APIs. Its context is the caller's claims."""
    claims = callers.claims(str((event.get("headers") or {}).get("authorization", "")))
    return {"isAuthorized": claims is not None, "context": claims or {}}
