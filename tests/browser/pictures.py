"""Image files for the tests."""

import random
import struct
import zlib

from playwright.sync_api import Page


def noise(side: int) -> bytes:
    """A PNG that cannot be made small by packing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + random.randbytes(3 * side) for _ in range(side))
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


DRAW = """
async ({ side, type }) => {
    const canvas = new OffscreenCanvas(side, side);
    const context = canvas.getContext("2d");
    const image = context.createImageData(side, side);
    for (let at = 0; at < image.data.length; at += 65536) {
        crypto.getRandomValues(image.data.subarray(at, at + 65536));
    }
    context.putImageData(image, 0, 0);
    const blob = await canvas.convertToBlob({ type, quality: 1 });
    if (blob.type !== type) throw new Error(`this browser draws ${blob.type}, not ${type}`);
    return Array.from(new Uint8Array(await blob.arrayBuffer()));
}
"""


def drawn(page: Page, content_type: str, side: int) -> bytes:
    """An image of noise, as the browser encodes it: about 3 bytes a pixel as a JPEG."""
    return bytes(page.evaluate(DRAW, {"side": side, "type": content_type}))
