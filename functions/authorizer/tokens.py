"""Checks tokens of the stack's issuer, like API Gateway's JWT authorizer."""

import json
import urllib.request
from functools import cached_property
from typing import Any

import jwt

# The algorithms that API Gateway's authorizer accepts
# (docs.aws.amazon.com/apigateway/latest/developerguide/http-api-jwt-authorizer.html).
ALGORITHMS = ["RS256", "RS384", "RS512"]

_SECONDS = 3  # seconds for one call to the issuer
_KEYS_KEPT_SECONDS = 2 * 3600


class Tokens:
    """`issuer`: a URL. The checker fetches its discovery document and keys with the first token, and keeps them."""

    def __init__(self, issuer: str, audience: str) -> None:
        self._issuer = issuer
        self._audience = audience

    def claims(self, token: str) -> dict[str, str] | None:
        """The claims of a valid token, each as text, a list as "[a b]". None if the token is not valid.

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
