"""The API keys of the models, from Secrets Manager."""

import asyncio
import json
import time
from collections import defaultdict
from typing import NamedTuple

from modelerror import ModelError
from turnqueue import aws
from turnqueue.telemetry import error_name, logger

KEPT_SECONDS = 300
"""Seconds that a process keeps a key. A process can use a replaced key for this long."""


class SecretHasNoKey(ModelError):
    """The secret has no usable key. Retries do not help. The error's text is a constant, and does not quote the
    secret."""

    def __init__(self) -> None:
        super().__init__("model_auth")


class SecretHasNotOneValue(SecretHasNoKey):
    """The secret is a JSON object with no value or several values, so it is unclear which is the key."""


class SecretHasNoText(SecretHasNoKey):
    """The secret, or the only value of its JSON object, is empty or not text."""


def key_in(secret: str) -> str:
    """The API key in the text of a secret: the text itself, or the one value of a JSON object.

    The form in AWS's console stores a key as {"name": "key"}. Raises SecretHasNotOneValue or SecretHasNoText, which do
    not quote the secret.
    """
    try:
        found = json.loads(secret)
    except ValueError:
        found = secret
    if isinstance(found, dict):
        if len(found) != 1:
            raise SecretHasNotOneValue
        (found,) = found.values()
    else:
        found = secret  # "123" and "true" are JSON too, and can be keys
    if not isinstance(found, str) or not found.strip():
        raise SecretHasNoText
    return found.strip()


class _Fetched(NamedTuple):
    """The result of a fetch. `number`: counts the fetches of this secret. `until`: the time until which the key is
    kept. `error`: None if the fetch returned a key."""

    number: int = 0
    key: str = ""
    until: float = 0
    error: Exception | None = None


class ModelKeys:
    """Fetches the keys from their secrets and caches them. Use an object only in one event loop."""

    def __init__(self, *, attempts: int) -> None:
        self._client = aws.client("secretsmanager", attempts=attempts)
        self._last: dict[str, _Fetched] = defaultdict(_Fetched)
        self._fetching: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def get(self, arn: str, *, fresh: bool = False) -> str:
        """The key in the secret `arn`, fetched at most KEPT_SECONDS ago. With `fresh`, the key is fetched after this
        call begins. Raises botocore's ClientError or BotoCoreError, or the errors of `key_in`."""
        if not fresh and time.time() < self._last[arn].until:
            return self._last[arn].key
        # Concurrent callers share one fetch, failures included. Otherwise ten turns that begin together would fetch one
        # after the other. With `fresh`, a running fetch does not count, because it may still return the refused key.
        fetching = self._fetching[arn]
        number = self._last[arn].number + (2 if fresh and fetching.locked() else 1)
        async with fetching:
            if self._last[arn].number < number:
                self._last[arn] = await self._fetch(arn, self._last[arn].number + 1)
            last = self._last[arn]
        if last.error:
            raise last.error
        return last.key

    async def _fetch(self, arn: str, number: int) -> _Fetched:
        try:
            secret = await asyncio.to_thread(self._client.get_secret_value, SecretId=arn)
            return _Fetched(number, key_in(secret.get("SecretString", "")), time.time() + KEPT_SECONDS)
        except SecretHasNoKey as error:
            logger.error("model key secret holds no key", extra={"error": error_name(error)})
            return _Fetched(number, error=error)
        except Exception as error:
            return _Fetched(number, error=error)
