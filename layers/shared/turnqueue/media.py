"""Images in S3: uploads, and the large data URLs of messages (turnqueue/attachments.py). The client uploads with a form
that `submit` has signed, and the worker reads the image. No function lists the bucket. The key of an image contains
neither the owner's id nor a file name."""

import base64
import re
from contextlib import closing
from functools import cached_property
from typing import Any, NamedTuple

from botocore.exceptions import ClientError

from turnqueue import aws
from turnqueue.turn import new_ulid, upload_key

MAX_UPLOAD_BYTES = 2 * 1024 * 1024
"""The maximum number of bytes in one image. Also the maximum for all uploads together that the model gets with a
message. Ten concurrent turns, each with several copies of an image, fit into the worker's 256 MB (docs/operations.md,
"Uploads")."""

UPLOAD_SECONDS = 300
"""Seconds for which a form can be used. The form ends earlier if the signing credentials expire."""

IMAGES = {
    "image/png": rb"\x89PNG\r\n\x1a\n",
    "image/jpeg": rb"\xff\xd8\xff",
    "image/gif": rb"GIF8[79]a",
    "image/webp": rb"(?s)RIFF....WEBP",
}
"""A regular expression for the first bytes of each accepted type. The expressions are compiled at their first use,
because most processes never need them."""


def image_type(content: bytes) -> str | None:
    """The media type that the first bytes show. None if it is not a type in IMAGES."""
    return next((name for name, beginning in IMAGES.items() if re.match(beginning, content)), None)


_HOST = r"(\*\.)?[a-z0-9-]+(\.[a-z0-9-]+)+"
# An https URL whose authority is only a host name, or a host name with the port 443. Other URLs do not match: if the
# authority has a user name, a backslash, an escape or another port, two parsers could see two different hosts.
_AUTHORITY = r"https://([A-Za-z0-9.-]+)(?::443)?(?:[/?#].*)?"


class MediaUrls:
    """The parameter MediaUrls: which https URLs of images the worker may pass to the model's server, which fetches
    them.

    `text`: "https" for all URLs, "off" for no URL, or hosts separated by commas, as in "cdn.example.com,*.example.org",
    where `*` stands for any subdomain. Raises ValueError for any other text.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.hosts = [] if text in ("https", "off") else text.split(",")
        if not all(re.fullmatch(_HOST, host) for host in self.hosts):
            raise ValueError(f"MediaUrls must be https, off, or hosts separated by commas, not {text}")

    def allows(self, url: str) -> bool:
        """Whether a model may get the URL. Data URLs are always allowed, because nobody fetches them."""
        if url.startswith("data:") or self.text == "https":
            return True
        match = re.fullmatch(_AUTHORITY, url, re.DOTALL)
        host = match[1].lower() if match else ""
        return any(host.endswith(each[1:]) if each[0] == "*" else host == each for each in self.hosts)

    def __str__(self) -> str:
        """The URLs that a message may name, as a text for people."""
        if not self.hosts:
            return "any https URL" if self.text == "https" else "only uploads and data URLs"
        return f"only uploads, data URLs and https URLs of these hosts: {self.text}"


class Form(NamedTuple):
    """An upload that the API offers: the client posts a form to `url`, with these `fields`, and the file as the last
    field."""

    upload_id: str
    url: str
    fields: dict[str, str]
    expires_at: int  # when the form expires, in seconds since the epoch
    max_bytes: int


class Image(NamedTuple):
    content_type: str
    content: bytes

    @property
    def data_url(self) -> str:
        return f"data:{self.content_type};base64,{base64.b64encode(self.content).decode()}"


class Unusable(Exception):
    """The image cannot be used. `code` is one of FAILURES."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Uploads:
    """The images in the media bucket. The methods that call S3 raise botocore's ClientError or BotoCoreError when it
    does not answer or refuses."""

    def __init__(self, bucket: str, *, attempts: int) -> None:
        self._bucket = bucket
        self._attempts = attempts

    @cached_property
    def _client(self) -> Any:
        # The client is made at its first use. Most processes never need it, and it takes longer to make than any other
        # client.
        return aws.form_client(attempts=self._attempts)

    def offer(self, owner: str, content_type: str, size: int | None, now: float) -> Form:
        """Sign a form for one image of the owner. The image must have this type and `size` bytes; without `size`, any
        size up to the limit. Calls no AWS service."""
        upload_id = new_ulid(now)
        signed = self._client.generate_presigned_post(
            self._bucket,
            upload_key(owner, upload_id),
            Fields={"Content-Type": content_type},
            Conditions=[
                {"Content-Type": content_type},
                ["content-length-range", size or 1, size or MAX_UPLOAD_BYTES],
            ],
            ExpiresIn=UPLOAD_SECONDS,
        )
        expires_at = int(now) + UPLOAD_SECONDS
        return Form(upload_id, signed["url"], signed["fields"], expires_at, size or MAX_UPLOAD_BYTES)

    def read(self, owner: str, upload_id: str, max_bytes: int) -> Image:
        """The image. An uploader can declare a JPEG as a PNG, so the first bytes decide the type.

        Raises Unusable if the image does not exist, is larger than `max_bytes`, or has a type that is not in IMAGES.
        """
        content = self._get(owner, upload_id, max_bytes).content
        if (content_type := image_type(content)) is None:
            raise Unusable("media_invalid")
        return Image(content_type, content)

    def put_data_url(self, owner: str, upload_id: str, url: str) -> None:
        """Store the image of a base64 data URL. Safe to repeat."""
        declared, _, text = url.partition(",")
        self._client.put_object(
            Bucket=self._bucket,
            Key=upload_key(owner, upload_id),
            Body=base64.b64decode(text),
            ContentType=declared.removeprefix("data:").removesuffix(";base64"),
        )

    def data_url(self, owner: str, upload_id: str) -> str:
        """The data URL that `put_data_url` stored. Raises Unusable if the object no longer exists."""
        return self._get(owner, upload_id, MAX_UPLOAD_BYTES).data_url

    def delete(self, owner: str, upload_id: str) -> None:
        self._client.delete_object(Bucket=self._bucket, Key=upload_key(owner, upload_id))

    def _get(self, owner: str, upload_id: str, max_bytes: int) -> Image:
        """The bytes of the object, and the media type that its uploader declared."""
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=upload_key(owner, upload_id))
        except ClientError as error:
            # Without the right to list the bucket, S3 answers AccessDenied for a missing key.
            if error.response["Error"]["Code"] in ("NoSuchKey", "AccessDenied"):
                raise Unusable("media_missing") from error
            raise
        with closing(answer["Body"]) as body:
            if answer["ContentLength"] > max_bytes:
                raise Unusable("media_invalid")
            return Image(answer["ContentType"], body.read())
