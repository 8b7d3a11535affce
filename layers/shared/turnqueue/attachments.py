"""Moves large data URLs out of the turn's item, because DynamoDB bills each write of a turn by the item's size. The
function `submit` stores the image of a large data URL in the media bucket (turnqueue/media.py), and a reference in the
turn: {type, upload_id, data_url: {characters, sha256}}. The `upload_id` of a reference is no ULID, so no client can
send it.

A reference also has the form of an upload. So a worker of an earlier version, which knows only uploads, can read the
image.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

type Item = dict[str, Any]
type Request = dict[str, Any]

MAX_INLINE_CHARACTERS = 4096
"""The maximum number of characters in a data URL that stays in the turn's item. For a data URL of this size, the item
(4 write units in each of four writes) costs about as much as S3 (a PUT and a few GETs)."""

MAX_SHOWN_CHARACTERS = 1_000_000
"""The maximum number of characters in data URLs that one response reads from S3. If the first message alone has more,
the response ends after this message. A response of Lambda has at most 6 MB."""

MAX_SHOWN = 40
"""The maximum number of data URLs that one response reads from S3, at about 30 ms each. If the first message alone has
more, the response ends after this message."""

_FOLDER = "data/"


def moved(request: Request, turn: str) -> tuple[Request, dict[str, str]]:
    """Returns the request with references in place of its large data URLs, and these data URLs as {upload_id: data
    URL}. `turn`: the ULID of the turn. The images of a turn always get the same ids, so a repeated request writes the
    same objects."""
    found: dict[str, str] = {}

    def move(media: Sequence[Item]) -> list[Item]:
        return [reference(item) if is_large(item) else item for item in media]

    def reference(item: Item) -> Item:
        url = item["url"]
        upload_id = f"{_FOLDER}{turn}/{len(found)}"
        found[upload_id] = url
        return {"type": item["type"], "upload_id": upload_id, "data_url": _said(url)}

    return _with_media(request, move), found


def is_large(item: Item) -> bool:
    """Whether the attachment is a data URL that is too large for the turn's item."""
    url = item.get("url", "")
    return len(url) > MAX_INLINE_CHARACTERS and url.startswith("data:")


def comparable(media: Sequence[Item]) -> list[Item]:
    """The attachments in a form that is equal for equal images: each large data URL becomes its length and its hash.
    The stored references cannot be compared, because each turn has other `upload_id`s."""
    return [
        {"type": item["type"], "data_url": item.get("data_url") or _said(item["url"])}
        if "data_url" in item or is_large(item)
        else item
        for item in media
    ]


def references(request: Request) -> list[str]:
    """The `upload_id`s of all references in the request: to its own images, and to images of earlier requests."""
    return [item["upload_id"] for item in _attachments(request) if "data_url" in item]


def own_references(request: Request, turn: str) -> list[str]:
    """The `upload_id`s of the references to images that came with this turn. A retry has none: its references name the
    images of the failed turn."""
    return [upload_id for upload_id in references(request) if upload_id.startswith(f"{_FOLDER}{turn}/")]


def shown(
    read: Callable[[str], str | None],
    groups: Sequence[Sequence[Item]],
    put: Callable[[Item, str], None],
    *,
    name: str = "upload_id",
) -> int:
    """Replace references by their data URLs in the first `groups`: as many as fit into one response, but at least one.
    Returns the number of these groups. Later groups stay unchanged. A group has the attachments of one message.

    `read`: returns the data URL of an id, or None if S3 cannot return it. `put`: writes the data URL into its
    attachment. `name`: the member of an attachment that has the id.
    """
    characters = images = 0
    for number, group in enumerate(groups):
        moved_ones = [item for item in group if "data_url" in item]
        characters += sum(item["data_url"]["characters"] for item in moved_ones)
        images += len(moved_ones)
        if number and (characters > MAX_SHOWN_CHARACTERS or images > MAX_SHOWN):
            return number
        for item in moved_ones:
            del item["data_url"]
            if url := read(item[name]):
                put(item, url)
    return len(groups)


def _said(url: str) -> dict[str, Any]:
    return {"characters": len(url), "sha256": hashlib.sha256(url.encode()).hexdigest()}


def _with_media(request: Request, change: Callable[[Sequence[Item]], list[Item]]) -> Request:
    def changed(entry: Request) -> Request:
        return entry | {"media": change(entry["media"])} if entry.get("media") else entry

    request = changed(request)
    return request | {"context": [changed(entry) for entry in request["context"]]} if "context" in request else request


def _attachments(request: Mapping[str, Any]) -> Iterator[Item]:
    for entry in (*(request.get("context") or ()), request):
        yield from entry.get("media") or ()
