"""Identifies the caller of the OpenAI API: the owner of an API key, or of a token of the stack's issuer.

API Gateway keeps each outcome for a minute, so a revoked key works for up to a minute. If this function refuses a
caller, API Gateway answers 403. If this function fails, it answers 500.
"""

import os
import time
from typing import Any

from tokens import Tokens
from turnqueue.api_keys import API_KEY_PREFIX, ApiKeys
from turnqueue.http import is_owner
from turnqueue.telemetry import observed

keys = ApiKeys(os.environ["GUARDS_TABLE"], attempts=2)
tokens = Tokens(os.environ["JWT_ISSUER"], os.environ["JWT_AUDIENCE"])
group_claim = os.environ["LIMIT_GROUP_CLAIM"]


@observed
def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """The authorizer's response, in the simple form of HTTP APIs. Its context is the caller's claims."""
    scheme, _, secret = str((event.get("headers") or {}).get("authorization", "")).partition(" ")
    claims = _claims(secret.strip()) if scheme.lower() == "bearer" else None
    return {"isAuthorized": claims is not None, "context": claims or {}}


def _claims(secret: str) -> dict[str, str] | None:
    if not secret.startswith(API_KEY_PREFIX):
        claims = tokens.claims(secret)
        return claims if claims and is_owner(claims.get("sub")) else None
    key = keys.find(secret, time.time())
    if key is None:
        return None
    return {"sub": key.owner} | ({group_claim: key.group} if group_claim and key.group else {})
