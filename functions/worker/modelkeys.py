"""The API keys of the models, from Secrets Manager."""

import time

from turnqueue import aws

KEPT_SECONDS = 300
"""How long a key that was exchanged, but not yet withdrawn, may be used on."""


class ModelKeys:
    """Each is a secret whose string is the key. Safe to call from many threads; two may then fetch the same at once."""

    def __init__(self, *, attempts: int) -> None:
        self._client = aws.client("secretsmanager", attempts=attempts)
        self._kept: dict[str, tuple[str, float]] = {}

    def get(self, arn: str, *, fresh: bool = False) -> str:
        """The key in the secret `arn`, as it is or, unless `fresh`, was KEPT_SECONDS ago. Raises botocore's ClientError
        or BotoCoreError; KeyError if the secret is no string."""
        key, kept_until = self._kept.get(arn, ("", 0.0))
        now = time.time()
        if fresh or now >= kept_until:
            key = self._client.get_secret_value(SecretId=arn)["SecretString"].strip()
            self._kept[arn] = key, now + KEPT_SECONDS
        return key
