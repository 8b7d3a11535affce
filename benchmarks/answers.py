"""What a turn costs as its answer grows."""

import itertools
import math
import statistics
import time
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from benchmarks.bill import CHATS, dollars
from benchmarks.chats import Chats
from benchmarks.on_lambda import MB_OF_A_CPU
from benchmarks.paired import alternate, ratio, spread
from benchmarks.report import Section
from local import model_server

TOKENS = (500, 1_000, 2_000, 4_000, 8_000)
TOKENS_A_SECOND = 800
"""As quick as the stand-in streams; what slower models cost is reckoned from it."""
USUAL_TOKENS_A_SECOND = 100
_CHUNKS = 300
_ROUNDS = 5


class Answer(NamedTuple):
    """What an answer of so many tokens used."""

    tokens: int
    seconds: float
    cpu: float  # seconds of the worker
    writes: float  # of its progress
    write_units: float


def progress_units(tokens: int, tokens_a_second: float) -> int:
    """A write each second of all that was said so far, 4 bytes a token, beside half a kilobyte of the turn."""
    seconds = math.floor(tokens / tokens_a_second)
    return sum(math.ceil((500 + 4 * tokens_a_second * second) / 1024) for second in range(1, seconds + 1))


def answer(chats: Chats, tokens: int) -> Answer:
    """One answer as it streams, two tokens a chunk."""
    words = next(words for words in itertools.count(1) if _characters(words) >= 4 * tokens)
    pause = tokens / words / TOKENS_A_SECOND
    began = time.monotonic()
    with chats.meter.measured() as use:
        task = chats.say(f"[[drip={pause:.5f} words={words}]]")
    seconds = time.monotonic() - began
    return Answer(
        task["usage"]["completion_tokens"],
        seconds,
        use["CPU seconds", "WorkerFunction"],
        use["writes", "progress"],
        use["write units", "progress"],
    )


def _characters(words: int) -> int:
    """Of the stand-in's answer of so many words."""
    return len(" ".join(f"word{number}" for number in range(1, words + 1)))


def tell_answers(section: Section, answers: Sequence[Answer]) -> None:
    section.say(
        f"**The answer grows to {TOKENS[-1]:,} tokens: the worker's time and its CPU grow with it, and the writes of "
        "its progress by its square,** for each second another write is made of all that was said so far. Streamed at "
        f"{TOKENS_A_SECOND} tokens a second, two a chunk; reckoned: a write each second, 4 bytes a token, half a "
        "kilobyte of the turn beside them, a unit for each KB begun."
    )
    usual = {each.tokens: progress_units(each.tokens, USUAL_TOKENS_A_SECOND) for each in answers}
    rows = [
        [
            f"{each.tokens:,}",
            f"{each.seconds:.1f} s",
            f"{each.writes:.0f}",
            f"{each.write_units:.0f}",
            f"{progress_units(each.tokens, each.tokens / each.seconds)}",
            f"{usual[each.tokens]:,}",
            f"${dollars('dynamodb_write_unit', usual[each.tokens] * CHATS):,.0f}",
            f"${dollars('model_completion_token', each.tokens * CHATS):,.0f}",
            f"{1000 * each.cpu:.0f} ms",
        ]
        for each in answers
    ]
    head = ["tokens", "took", "progress writes", "their units", "reckoned", f"reckoned at {USUAL_TOKENS_A_SECOND}/s"]
    section.table([*head, "that, for a million", "the model's tokens for them", "worker's CPU"], rows)
    least, most = answers[0], answers[-1]
    progress = dollars("dynamodb_write_unit", usual[most.tokens])
    spoken = dollars("model_completion_token", most.tokens)
    section.say(
        f"{most.tokens / least.tokens:.0f} times the answer takes {most.cpu / least.cpu:.1f} times the CPU and, at "
        f"{USUAL_TOKENS_A_SECOND} tokens a second, {usual[most.tokens] / max(1, usual[least.tokens]):.0f} times the "
        f"units of progress, which are then {100 * progress / spoken:.0f} % of what the model's tokens cost."
    )


class Chunks(NamedTuple):
    """CPU seconds of the worker, in each round, for a turn without any, and for each chunk more of its stream."""

    turn: list[float]
    alone: list[float]
    together: list[float]


def cpu_of_chunks(chats: Chats) -> Chunks:
    """Chunks that come one by one, and as many that come all at once."""
    messages = {
        "none": "[[words=1]]",
        "alone": f"[[drip=0.005 words={_CHUNKS}]]",
        "together": f"[[words={_CHUNKS * model_server.WORDS_PER_CHUNK}]]",
    }

    def measure(message: str) -> float:
        with chats.meter.measured() as use:
            chats.say(message)
        return use["CPU seconds", "WorkerFunction"]

    rounds = alternate({name: partial(measure, message) for name, message in messages.items()}, _ROUNDS)
    of_one = {
        name: [(some - none) / _CHUNKS for some, none in zip(rounds[name], rounds["none"], strict=True)]
        for name in ("alone", "together")
    }
    return Chunks(rounds["none"], of_one["alone"], of_one["together"])


def tell_chunks(section: Section, chunks: Chunks, megabytes: int) -> None:
    turn, alone, together = (1000 * statistics.median(seconds) for seconds in chunks)
    share = megabytes / MB_OF_A_CPU
    section.say(
        f"**A chunk of the stream takes {spread([1000 * seconds for seconds in chunks.alone], 2)} ms of CPU when it "
        f"comes alone, and {spread([1000 * seconds for seconds in chunks.together], 2)} ms when it comes with many** "
        f"({ratio(chunks.alone, chunks.together)} times as much), beside {turn:.0f} ms for the turn. Most models send "
        f"each token alone. With {megabytes} MB, {share:.2f} of a CPU, the worker keeps up with "
        f"{share / alone * 1000:,.0f} chunks a second that come alone, {share / alone * 100:.0f} for each of ten "
        f"turns. One that falls behind finds more at each read, and takes up to {share / together * 1000:,.0f}. Below, "
        f"ten answers at once, a token a chunk, {USUAL_TOKENS_A_SECOND} a second: how long the CPU time that they take "
        "lasts at a function's share, if all chunks come together and if all come alone. Where that is more than the "
        "model takes, it is the worker that is waited for."
    )
    rows = []
    for tokens in (75, 300, 1_000):
        cpu = [10 * (turn + tokens * each) / 1000 for each in (together, alone)]
        rows.append(
            [
                f"{tokens:,}",
                f"{tokens / USUAL_TOKENS_A_SECOND:.1f} s",
                *(
                    " to ".join(f"{seconds * MB_OF_A_CPU / memory:.1f}" for seconds in cpu) + " s"
                    for memory in (megabytes, 2 * megabytes, 4 * megabytes)
                ),
            ]
        )
    section.table(
        ["tokens", "the model takes", *(f"at {factor * megabytes:,} MB" for factor in (1, 2, 4))],
        rows,
    )
