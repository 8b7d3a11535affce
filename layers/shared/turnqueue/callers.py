"""Identifies the caller of a request, by an API key or a token of the stack's issuer.

Only functions whose requirements have PyJWT can import this module.
"""

import json
import time
import urllib.request
from functools import cached_property
from typing import Any

import jwt

from turnqueue.api_keys import API_KEY_PREFIX, ApiKeys
from turnqueue.http import is_owner

# The algorithms that API Gateway's authorizer accepts
# (docs.aws.amazon.com/apigateway/latest/developerguide/http-api-jwt-authorizer.html).
ALGORITHMS = ["RS256", "RS384", "RS512"]

_SECONDS = 3  # the timeout of one call to the issuer
_KEYS_KEPT_SECONDS = 2 * 3600


class Callers:
    """Finds the callers of requests. `group_claim`: the name of the claim for the owner's group. The group of an API
    key is returned under this name too. `group_claim` is empty if the stack uses no groups."""

    def __init__(self, keys: ApiKeys, tokens: "Tokens", group_claim: str) -> None:
        self._keys = keys
        self._tokens = tokens
        self._group_claim = group_claim

    def claims(self, authorization: str, *, by_key: bool = True) -> dict[str, str] | None:
        """The claims of the caller whose request has this Authorization header: a bearer token, or an API key if
        `by_key`. None if the header has no valid token or key. Raises the errors of `Tokens.claims`, and botocore's
        ClientError or BotoCoreError.
        """
        scheme, _, secret = authorization.partition(" ")
        secret = secret.strip()
        if scheme.lower() != "bearer":
            return None
        if secret.startswith(API_KEY_PREFIX):
            return self._of_key(secret) if by_key else None
        claims = self._tokens.claims(secret)
        return claims if claims and is_owner(claims.get("sub")) else None

    def _of_key(self, secret: str) -> dict[str, str] | None:
        key = self._keys.find(secret, time.time())
        if key is None:
            return None
        return {"sub": key.owner} | ({self._group_claim: key.group} if self._group_claim and key.group else {})


class Tokens:
    """Checks tokens like API Gateway's JWT authorizer. `issuer`: a URL. The first token makes this class fetch the
    issuer's discovery document and keys. It uses fetched keys for 2 hours."""

    def __init__(self, issuer: str, audience: str) -> None:
        self._issuer = issuer
        self._audience = audience

    def claims(self, token: str) -> dict[str, str] | None:
        """The claims of a valid token, each as text. A list becomes "[a b]". None if the token is not valid.

        Raises jwt.PyJWKClientConnectionError or OSError when the issuer cannot be asked for its keys.
        """
        try:
            kid = jwt.get_unverified_header(token).get("kid")
            if not isinstance(kid, str):
                return None
            key = self._keys.get_signing_key(kid)
            claims = jwt.decode(
                token,
                key,
                algorithms=ALGORITHMS,
                issuer=self._issuer,
                options={"require": ["exp", "iss"], "verify_aud": False},
            )
        except jwt.PyJWKClientConnectionError:
            raise
        except jwt.PyJWTError:
            return None
        # An access token of Cognito has `client_id` instead of an audience.
        audience = claims.get("aud", claims.get("client_id"))
        if self._audience not in (audience if isinstance(audience, list) else [audience]):
            return None
        return {name: _text(value) for name, value in claims.items()}

    @cached_property
    def _keys(self) -> jwt.PyJWKClient:
        url = f"{self._issuer.rstrip('/')}/.well-known/openid-configuration"
        with urllib.request.urlopen(url, timeout=_SECONDS) as answer:
            keys_url = json.load(answer)["jwks_uri"]
        return jwt.PyJWKClient(keys_url, lifespan=_KEYS_KEPT_SECONDS, timeout=_SECONDS)


def _text(value: Any) -> str:
    """The claim as text, in the form that API Gateway gives to functions."""
    if isinstance(value, str):
        return value
    return f"[{' '.join(map(_text, value))}]" if isinstance(value, list) else json.dumps(value)
