"""AWS clients: callers with the same arguments share one, even if they ask at the same moment."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from turnqueue import aws

WANTED: dict[str, Callable[[], Any]] = {
    "a client": lambda: aws.client("sqs", attempts=9),  # 9: such as nobody else has made
    "a client that signs forms": lambda: aws.form_client(attempts=9),
}


@pytest.mark.parametrize("wanted", WANTED.values(), ids=WANTED)
def test_ten_threads_that_want_a_client_at_once_have_the_same(wanted: Callable[[], Any]) -> None:
    together = threading.Barrier(10)

    def want(_: int) -> Any:
        together.wait(5)
        return wanted()

    with ThreadPoolExecutor(10) as threads:
        assert len({id(client) for client in list(threads.map(want, range(10)))}) == 1
