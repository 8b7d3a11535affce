"""Runs a story with its faults, and checks the result.

python -m tests.faults.runs submit_sync                       prints the story and numbers its calls python -m
tests.faults.runs submit_sync "4:dies after" --seed 7   the same with a fault and with random durations
"""

import argparse
import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.faults.clients import Client
from tests.faults.faults import Call, Variant
from tests.faults.guarantees import GuaranteeBroken, tell
from tests.faults.stories import RACES, STORIES, Story
from tests.faults.world import World, template

RECOVERY_SECONDS = template("AWS::SQS::Queue")["TurnQueue"]["VisibilityTimeout"] + 10.0
"""By how much a single fault may delay a task: until its message is visible again, and a few seconds."""


class FaultTooDear(AssertionError):
    """One fault has cost an accepted task, or more time than a lease; or, without any, a task took far too long."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the price of a fault is too high: {what}")


@dataclass
class Result:
    story: str
    seed: int | None
    faults: tuple[tuple[int, Variant], ...]
    calls: list[Call] = field(default_factory=list)
    last: int = 0
    """How many of the calls came before the end of the story."""
    deaths: int = 0
    delay: float = 0.0
    """The longest time from a request to the end of its task."""
    broken: str = ""
    guarantee: int | None = None
    told: str = ""

    def points(self, story: Story) -> Iterator[tuple[Call, Variant]]:
        """The faults to try: each call fails in each of its variants. Leaves out what another fault shows: of equal
        reads without a write between them, all but the first and the last; and death after a call, if the process
        would make its next call at that moment and so dies before it."""
        calls = [call for call in self.calls[: self.last] if call.at >= story.after]
        writes = itertools.accumulate(not call.read for call in calls)
        equal = defaultdict[tuple[Any, ...], list[Call]](list)
        for call, number in zip(calls, writes, strict=True):
            equal[(number, call.process, call.read) if call.read else (number,)].append(call)
        ends = {call.number for several in equal.values() for call in (several[0], several[-1])}
        for call in (self.calls[number] for number in sorted(ends)):
            following = self.calls[call.number + 1 :][:1]
            at_once = any(each.process == call.process and each.at == call.answered_at for each in following)
            for variant in call.variants:
                if not (variant is Variant.DIES_AFTER and at_once):
                    yield call, variant

    def report(self) -> str:
        chance = "" if self.seed is None else f", seed {self.seed}"
        faults = "; ".join(f"{self.calls[n]}: {variant}" for n, variant in self.faults if n < len(self.calls))
        return f"{self.story}{chance}, {faults or 'no fault'}\n{self.broken}\n\n{self.told}\n"


def run(name: str, faults: Iterable[tuple[int, Variant]] = (), seed: int | None = None) -> Result:
    """Run a story. With a seed all that chance may decide is decided by it; without, everything is regular."""
    chosen = tuple(faults)
    story = (STORIES | RACES)[name]
    result = Result(name, seed, chosen)
    with World(seed=seed or 0, faults=chosen, chance=seed is not None) as world:
        try:
            play(world, story)
            result.delay = max((world.final_after(task) for task in world.watch.accepted), default=0.0)
            if world.plan.struck < 2:
                _check_price(world, story)
        except AssertionError as error:
            result.broken = str(error)
            result.guarantee = error.number if isinstance(error, GuaranteeBroken) else None
        result.told = tell(world.story)
        world.plan.end()
        result.calls, result.last = world.plan.calls, world.plan.points
        result.deaths = world.deaths
    return result


def play(world: World, story: Story) -> None:
    """Tell the story, let time run on, and check every guarantee."""
    told: list[bool] = []

    def teller() -> None:
        story.tell(world, Client(world, "alice"))
        told.append(True)

    world.scheduler.spawn("story", teller)
    world.run(stop=lambda: bool(told) and world.quiet())
    world.settle()
    world.watch.check()


def _check_price(world: World, story: Story) -> None:
    allowed = story.seconds + (RECOVERY_SECONDS if world.plan.struck else 0.0)
    for task_id, exchange in world.watch.accepted.items():
        marker = world.marker(task_id, exchange.owner)
        item, after = world.item(task_id, exchange.owner), world.final_after(task_id)
        assert item
        end = item.get("error_code", {"S": item["status"]["S"]})["S"]
        if end not in story.ends.get(marker, {end}):
            raise FaultTooDear(f"{marker} ends as {end}")
        if world.by_chance:
            continue  # its calls may be as slow as they like
        if not world.plan.struck and after > story.at_most.get(marker, after):
            raise GuaranteeBroken(4, f"{marker} is final after {after:.0f} s, for other sessions are slow or fail")
        if after > allowed:
            raise FaultTooDear(f"{marker} is final after {after:.0f} s")
    calls = len(world.model.calls)
    if story.calls is not None and not (world.by_chance or world.plan.struck) and calls > story.calls:
        raise GuaranteeBroken(3, f"the model is called {calls} times, {story.calls} would do")


def main() -> None:
    parser = argparse.ArgumentParser(description="Run one story and tell it.")
    parser.add_argument("story", choices=[*STORIES, *RACES])
    parser.add_argument("faults", nargs="*", help=f"number of a call:variant ({', '.join(Variant)})")
    parser.add_argument("--seed", type=int)
    arguments = parser.parse_args()
    split = [fault.partition(":") for fault in arguments.faults]
    result = run(arguments.story, [(int(number), Variant(name)) for number, _, name in split], arguments.seed)
    print("\n".join(map(str, result.calls[: result.last])), "\n")
    print(result.told)
    print(result.broken or "no guarantee broke")


if __name__ == "__main__":
    main()
