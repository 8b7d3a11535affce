"""Waiting for a turn while the table does not answer."""

import socket
import time
from types import ModuleType

import pytest

from turnqueue.turn import Key, Turn
from turnqueue.wait import single_try_store, wait_until_final


def test_a_read_that_hangs_takes_the_request_no_further_than_two_seconds(
    functions: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A waiting function leaves itself that much before its function's end; else the 202 would be lost with it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", f"http://127.0.0.1:{silent.getsockname()[1]}")
        turn = Turn.submitted(Key("alice#s-1", "01KANEC0X00000000000000000"), {"message": "hello"}, time.time())
        began_at = time.monotonic()

        waited = wait_until_final(single_try_store("a-table-of-its-own", "guards"), turn, 0.3, time.time() + 29)

    assert waited is turn
    assert time.monotonic() - began_at < 0.3 + 2
