"""The product's AWS clients, in the test's process."""

from collections.abc import Iterator
from contextlib import contextmanager

from turnqueue import aws


@contextmanager
def own_clients() -> Iterator[None]:
    """None that was made before, for another endpoint, and none is left: a process of Lambda's knows but one."""
    aws._shared.cache_clear()
    try:
        yield
    finally:
        aws._shared.cache_clear()
