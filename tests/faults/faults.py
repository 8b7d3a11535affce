"""The faults of a call, and a plan with the calls of a run that have a fault. The calls of a run are numbered in the
order in which they begin. The story and the seed determine a run. So up to the first fault, a run with faults equals
the run without them, and a number names the same call in both.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum


class Variant(StrEnum):
    """A call is a call of the SDK: `once` spoils its first try, `always` all of them."""

    REFUSED_ONCE = "refused once"  # an error answer, nothing done; the SDK tries again
    REFUSED = "refused always"
    UNANSWERED_ONCE = "done, unanswered once"  # it took effect, and its answer timed out; the SDK tries again
    UNANSWERED = "done, unanswered always"  # and no later try arrives
    DIES_BEFORE = "the process dies before it"
    DIES_AFTER = "the process dies after it"


WRITE_VARIANTS = tuple(Variant)
# A read has no effect. So a second try finds the same as the first, and death after it equals death before it.
READ_VARIANTS = (Variant.REFUSED, Variant.UNANSWERED, Variant.DIES_BEFORE)
# SQS hides the messages that a poll receives, and the model server counts a call.
POLL_VARIANTS = MODEL_VARIANTS = (*READ_VARIANTS, Variant.DIES_AFTER)
LAMBDA_VARIANTS = (Variant.REFUSED,)


@dataclass(eq=False)
class Call:
    """One call that a process makes of a service."""

    number: int
    process: str
    operation: str  # as in "dynamodb UpdateItem"
    variants: tuple[Variant, ...]
    at: float
    read: bytes = b""
    """The request, if it is a read."""
    answered_at: float = math.inf
    connect_timeout: float = 0.0
    read_timeout: float = 0.0
    tries: int = 0
    variant: Variant | None = None

    def __str__(self) -> str:
        return f"call {self.number}: {self.process}, {self.operation}"


class Fault(StrEnum):
    """What a try of a call suffers."""

    REFUSED = "refused"
    THROTTLED = "throttled"
    UNREACHABLE = "unreachable"
    UNANSWERED = "unanswered"
    DIES_BEFORE = "dies before"
    DIES_AFTER = "dies after"


def fault_of(call: Call) -> Fault | None:
    """What the current try of a call suffers."""
    first = call.tries == 1
    match call.variant:
        case Variant.REFUSED_ONCE:
            return Fault.REFUSED if first else None
        case Variant.REFUSED:
            return Fault.REFUSED
        case Variant.UNANSWERED_ONCE:
            return Fault.UNANSWERED if first else None
        case Variant.UNANSWERED:
            return Fault.UNANSWERED if first else Fault.UNREACHABLE
        case Variant.DIES_BEFORE:
            return Fault.DIES_BEFORE
        case Variant.DIES_AFTER:
            return Fault.DIES_AFTER
    return None


class Plan:
    """Numbers the calls of a run and gives each its variant."""

    def __init__(self, faults: Iterable[tuple[int, Variant]] = ()) -> None:
        self._faults = dict(faults)
        self.has_faults = bool(self._faults)
        self.calls: list[Call] = []
        self.armed: list[tuple[Callable[[Call], bool], Variant]] = []
        self.points = 0
        """How many calls there were until the faults ended."""
        self.struck = 0
        """How many calls have met their fault."""
        self._over = False

    def end(self) -> None:
        """No more faults from here on."""
        if not self._over:
            self.points, self._over = len(self.calls), True

    def begin(self, process: str, operation: str, variants: tuple[Variant, ...], at: float) -> Call:
        call = Call(len(self.calls), process, operation, variants, at)
        self.calls.append(call)
        if self._over:
            return call
        call.variant = self._faults.get(call.number)
        for index, (matches, variant) in enumerate(self.armed):
            if variant in variants and matches(call):
                call.variant = variant
                del self.armed[index]
                break
        if call.variant not in variants:
            call.variant = None
        self.struck += call.variant is not None
        return call
