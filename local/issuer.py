"""A STAND-IN identity provider, only for development: it gives a token to everybody. On loopback it serves the
discovery document and the public key for a JWT authorizer, and a token endpoint (RFC 6749, client credentials) that
accepts every client. The key is made at the start and never stored, so no other stack and no later run accepts the
tokens."""

import base64
import json
import secrets
import time
from typing import Any
from urllib.parse import parse_qsl

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from local.loopback import LoopbackServer, Request, Response


class Issuer:
    """Serves tokens and keys from construction until close."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._key_id = f"development-stand-in-{secrets.token_hex(4)}"
        self._server = LoopbackServer(self._answer)
        self.url = self._server.url

    def token(self, sub: str, audience: str, ttl: int = 3600) -> str:
        """An RS256 JWT for the owner `sub`, valid for `ttl` seconds. A negative `ttl` makes an expired token."""
        now = int(time.time())
        return self.signed({"sub": sub, "aud": audience, "iat": min(now, now + ttl), "exp": now + ttl})

    def signed(self, claims: dict[str, Any]) -> str:
        """An RS256 JWT with these claims. If the claims lack `iss`, this issuer is added."""
        claims = {"iss": self.url} | claims
        header = {"alg": "RS256", "typ": "JWT", "kid": self._key_id}
        signed = f"{_encode(header)}.{_encode(claims)}"
        signature = self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{_base64url(signature)}"

    def close(self) -> None:
        self._server.close()

    def _answer(self, request: Request) -> Response:
        if (request.method, request.target) == ("POST", "/token"):
            return self._token_endpoint(dict(parse_qsl(request.body.decode())))
        documents = {
            "/.well-known/openid-configuration": {
                "issuer": self.url,
                "jwks_uri": f"{self.url}/jwks.json",
                "token_endpoint": f"{self.url}/token",
                "id_token_signing_alg_values_supported": ["RS256"],
            },
            "/jwks.json": {"keys": [self._public_key()]},
        }
        document = documents.get(request.target)
        return Response(404) if document is None else Response(200, json.dumps(document).encode())

    def _token_endpoint(self, form: dict[str, str]) -> Response:
        if form.get("grant_type") != "client_credentials" or not form.get("client_id"):
            return Response(400, b'{"error":"invalid_request"}')
        token = self.token(form["client_id"], form.get("audience", ""))
        document = {"access_token": token, "token_type": "Bearer", "expires_in": 3600}
        return Response(200, json.dumps(document).encode())

    def _public_key(self) -> dict[str, str]:
        numbers = self._key.public_key().public_numbers()
        return {
            "kty": "RSA",
            "use": "sig",
            "alg": "RS256",
            "kid": self._key_id,
            "n": _base64url(numbers.n.to_bytes(256)),
            "e": _base64url(numbers.e.to_bytes(3)),
        }


def _encode(document: dict[str, Any]) -> str:
    return _base64url(json.dumps(document).encode())


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
