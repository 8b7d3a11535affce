"""Identifies the caller of the OpenAI API by an API key, or by a token that the stack's issuer has signed.

API Gateway caches each result for a minute, so a revoked key works for up to a minute. API Gateway answers 403 if this
function refuses the caller, and 500 if this function fails.
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
    """The authorizer's response, in the simple format of HTTP APIs. Its member `context` has the caller's claims."""
    claims = callers.claims(str((event.get("headers") or {}).get("authorization", "")))
    return {"isAuthorized": claims is not None, "context": claims or {}}
