"""What a million chats cost on AWS: units counted on the local stack, at list prices, beside a conventional design."""

from collections.abc import Mapping

from benchmarks.bill import CHATS, COLD_SHARE, MONTH_SECONDS, PRICES, Bill, Machine, dollars
from benchmarks.chats import Chats
from benchmarks.counted import (
    ANSWERS,
    EARLIER_TURNS,
    FUNCTIONS,
    LONG_INSTRUCTIONS,
    Persona,
    Run,
    in_sync_mode,
    many,
    of_personas,
    one_by_one,
    started,
    with_a_wait,
)
from benchmarks.designs import BEFORE, MILLIONS, OURS, Design, concurrency, conventional_bill, now, our_bill
from benchmarks.meter import Meter
from benchmarks.on_lambda import NETWORK_SECONDS
from benchmarks.paired import ratio, spread
from benchmarks.report import Section, goal
from benchmarks.scale import demand
from development import cfn
from local.dashboard.metrics import emitted, log_lines
from local.stack import LocalStack

_CHATS_TOGETHER = 60
_CHATS_ALONE = 16
_POLLS = (2, 5)
_SHOWN = 10
"""Millions of chats a month, of which all lines are told."""


def run() -> Section:
    section = Section("cost", "What a million chats cost on AWS")
    with LocalStack(record=True) as stack:
        chats = Chats(stack, Meter(stack))
        inits = started(chats)
        together = many(chats, _CHATS_TOGETHER)
        alone = one_by_one(chats, _CHATS_ALONE)
        modes = {"sync mode": in_sync_mode(chats), "one poll with `?wait=20`": with_a_wait(chats)}
        personas = of_personas(chats)
        series = len(emitted(log_lines(stack.logs)).names())

    design = now(together, alone, series)
    _tell_the_bills(section, design, alone, inits)
    _tell_assumptions(section, design, together, alone, inits)
    _tell_the_modes(section, alone, modes, OURS)
    _tell_the_model(section, alone, personas)
    _tell_the_prices(section)
    return section


def _bills(design: Design, run: Run, inits: Mapping[str, float], millions: float, polls: float) -> dict[str, Bill]:
    own = demand.workers(concurrency=concurrency(millions))
    return {
        "before": our_bill(BEFORE, demand.workers_before(), millions, polls, run, inits),
        "now": our_bill(design, own, millions, polls, run, inits),
        "conventional": conventional_bill(run, millions, polls, inits),
    }


def _tell_the_bills(section: Section, design: Design, run: Run, inits: Mapping[str, float]) -> None:
    section.say(
        f"Dollars for {CHATS:,} chats, at list prices (below), without free tiers. A chat is a message of 100 "
        f"characters and a streamed answer in a session with {EARLIER_TURNS} such turns before it; the model takes "
        f"{ANSWERS.mean:g} s on average (lognormal, sigma {ANSWERS.sigma:g}). All designs are polled equally often. "
        "Units are counted on the local stack, where real chats ran. The worker's time, its invocations and its "
        "receives are simulated (docs/scale.md), over the curve of a day. *Before*: commit a557647, with 20 workers. "
        "*Now*: with the `WorkerConcurrency` that docs/scale.md recommends for the load."
    )
    rows, gains = [], {}
    for millions in MILLIONS:
        for polls in _POLLS:
            before, ours, theirs = (bill.total for bill in _bills(design, run, inits, millions, polls).values())
            gains[millions, polls] = ours / before
            rows.append(
                [
                    f"{millions} million, polled {polls} times",
                    str(concurrency(millions)),
                    f"${before:.2f}",
                    f"**${ours:.2f}**",
                    f"{ours / before:.2f}",
                    f"${theirs:.2f}",
                    f"{ours / theirs:.2f} (1/{theirs / ours:.1f})",
                ]
            )
    head = ["chats a month", "`WorkerConcurrency`", "before", "now", "of before", "conventional", "of conventional"]
    section.table(head, rows)
    reached = goal(gains[_SHOWN, _POLLS[0]], 0.65)
    section.say(f"Of before, at {_SHOWN} million a month and polled twice: {gains[_SHOWN, _POLLS[0]]:.3f}, {reached}.")
    leaner = []
    for millions in MILLIONS:
        ours = _bills(design, run, inits, millions, _POLLS[0])["now"].total
        silent = conventional_bill(run, millions, _POLLS[0], inits, log_event=False)
        without = silent.total - silent["traces"].usd
        leaner.append(f"${without:.2f} at {millions} million (ours 1/{without / ours:.1f} of it)")
    section.say(
        f"The conventional design without what it could leave off, the events in its log and Tracer, polled "
        f"{_POLLS[0]} times: {', '.join(leaner)}."
    )
    section.say(f"The lines at {_SHOWN} million a month, polled {_POLLS[0]} times:")
    bills = _bills(design, run, inits, _SHOWN, _POLLS[0])
    names = list(dict.fromkeys(name for bill in bills.values() for name in bill))
    cells = [
        [name, *(f"{bill[name].units} · ${bill[name].usd:.2f}" if name in bill else "-" for bill in bills.values())]
        for name in names
    ]
    together = ["**together**", *(f"**${bill.total:.2f}**" for bill in bills.values())]
    section.table(["a chat", *bills], [*cells, together])


def _tell_assumptions(section: Section, design: Design, together: Run, alone: Run, inits: Mapping[str, float]) -> None:
    section.say("What was counted, a chat:")
    section.table(
        ["", "turns an invocation", "writes: turns + usage + growing answer", "reads", "SQS requests", "log lines"],
        [_counted(together, "together"), _counted(alone, "one by one")],
    )
    rows = [
        [
            function.removesuffix("Function").lower(),
            f"{together.of_an_invocation('CPU seconds', function) * 1000:.1f} ms",
            f"{alone.of_an_invocation('CPU seconds', function) * 1000:.1f} ms",
            f"{alone.of_an_invocation('calls', function):.1f}",
            f"{inits[function] * 1000:.0f} ms",
        ]
        for function in FUNCTIONS
    ]
    section.table(["an invocation", "CPU, together", "CPU, one by one", "AWS calls", "CPU, init and first"], rows)
    fixed = fixed_costs()
    section.say(
        f"Assumed, because there is no AWS here: {NETWORK_SECONDS * 1000:.0f} ms for each AWS call; a core of this "
        "machine is one vCPU, of which Lambda gives a function its memory's share of 1,769 MB; of the invocations "
        f"{100 * COLD_SHARE:.0f} % begin with an init, whose CPU time is billed. A streamed answer takes the CPU of "
        f"one of 300 tokens: {1000 * design.cpu:.0f} ms more than a short one, and {1000 * BEFORE.cpu:.0f} ms more "
        "before. The conventional design is reckoned, not run: REST API, x86, 512 MB, one message an invocation, "
        "Tracer at the default sampling, INFO logs with the event, a PROCESSING write, 20 metric series, no stream. "
        "Where it is not known it is charged what ours uses, which flatters it, most of all in the CPU of handlers and "
        f"inits. Its log bytes are those of Powertools' Logger on the events in events/. Our {design.series} metric "
        f"series are those that this run wrote ({BEFORE.series} before); a series is billed by the month, whatever the "
        "load. Not in the bills: storage (a week of turns), Cognito, KMS, Secrets Manager. Fixed costs a month: "
        + ", ".join(f"{name} ${usd:.2f}" for name, usd in fixed.items())
        + f", together ${sum(fixed.values()):.2f}."
    )


def _counted(run: Run, how: str) -> list[str]:
    """A row of what was counted."""
    queue = {operation: amount for (what, operation), amount in run.use.items() if what == "SQS requests" and amount}
    return [
        f"{run.chats} chats {how}",
        f"{run.chats / run.use['invocations', 'WorkerFunction']:.1f}",
        " + ".join(f"{run.each('writes', table):.2f}" for table in ("TurnsTable", "GuardsTable", "EventsTable")),
        f"{run.each('reads', 'Query'):.0f} Query, {run.each('reads', 'GetItem'):.2f} GetItem",
        ", ".join(f"{amount / run.chats:.1f} {operation}" for operation, amount in sorted(queue.items())),
        f"{run.each('log lines'):.1f}, {run.each('metric lines'):.1f} of them metrics; {run.each('log bytes'):.0f} B",
    ]


def fixed_costs() -> dict[str, float]:
    """Dollars a month of what the template makes and what Lambda does while nobody chats."""
    alarms = len(cfn.resources("AWS::CloudWatch::Alarm"))
    return {
        f"{alarms} alarms": dollars("alarm_month", alarms),
        "a composite alarm": dollars("composite_alarm_month", 1),
        "the dashboard": dollars("dashboard_month", 1),
        # Not fewer where the mapping has a MaximumConcurrency (Lambda's developer guide, "Scaling behavior").
        "Lambda's five long polls of 20 s": dollars("sqs_fifo_request", 5 * MONTH_SECONDS / 20),
    }


def _tell_the_modes(section: Section, polled_run: Run, modes: Mapping[str, Run], machine: Machine) -> None:
    section.say(
        "What the client's way of waiting changes, for a million chats: requests, the Lambda time of submit and status "
        "(who waits there is billed for it: as long as it lasted here), and reads. The worker's part is the same."
    )

    def parts(requests: float, seconds: float, reads: float) -> tuple[float, ...]:
        return (
            dollars("http_api_request", requests * CHATS),
            dollars("lambda_request", requests * CHATS),
            dollars(machine.price, machine.gigabyte_seconds(seconds) * CHATS),
            dollars("dynamodb_read_unit", reads * CHATS),
        )

    def row(name: str, requests: float, seconds: float, reads: float) -> list[str]:
        units = [f"{requests:.0f}", f"{seconds * 1000:,.0f} ms", f"{reads:.1f}"]
        paid = parts(requests, seconds, reads)
        return [name, *units, *(f"${part:.2f}" for part in paid), f"**${sum(paid):.2f}**"]

    submit, poll = (
        machine.seconds(
            polled_run.of_an_invocation("CPU seconds", function), polled_run.of_an_invocation("calls", function)
        )
        for function in FUNCTIONS[:2]
    )
    polled = {polls: (1 + polls, submit + polls * poll, polls) for polls in (1, 2, 5, 10)}
    rows = [row(f"polls: {polls}", *units) for polls, units in polled.items()]
    for name, run in modes.items():
        seconds = run.each("seconds", "SubmitFunction") + run.each("seconds", "StatusFunction")
        rows.append(row(name, run.each("requests"), seconds, run.each("read units", "GetItem")))
    head = ["", "requests", "Lambda time", "read units", "API", "Lambda requests", "Lambda time", "reads", "together"]
    section.table(head, rows)


def _tell_the_model(section: Section, run: Run, personas: Mapping[str, Persona]) -> None:
    section.say(
        "The model's own bill, which dwarfs AWS's (gpt-4.1-mini; tokens as the stand-in counts them, 4 characters "
        f"each), and what the length of a persona's instructions changes: {LONG_INSTRUCTIONS:,} characters against the "
        "`general` persona's. Measured in turns of the two, the model taking no time, without history."
    )
    rows = []
    for name, persona in personas.items():
        spoken = dollars("model_completion_token", persona.completion_tokens * CHATS)
        rows.append(
            [
                name,
                f"{persona.prompt_tokens:.0f} + {persona.completion_tokens:.0f}",
                f"{spread([1000 * seconds for seconds in persona.worker_cpu])} ms",
                f"{persona.log_bytes:.0f}",
                f"{persona.write_units:.1f}",
                f"${dollars('gigabyte_out', persona.prompt_tokens * 4 * CHATS / 2**30):.2f}",
                f"${dollars('model_prompt_token', persona.prompt_tokens * CHATS) + spoken:,.0f}",
                f"${dollars('model_cached_prompt_token', persona.prompt_tokens * CHATS) + spoken:,.0f}",
            ]
        )
    head = ["instructions", "tokens", "worker's CPU a turn", "log bytes", "write units", "data to the model"]
    section.table([*head, "model, for a million", "model, if the provider has the prompt cached"], rows)
    with_history = dollars("model_prompt_token", run.prompt_tokens * CHATS)
    with_history += dollars("model_completion_token", run.completion_tokens * CHATS)
    section.say(
        f"Long instructions take {ratio(personas['long'].worker_cpu, personas['short'].worker_cpu)} times the worker's "
        f"CPU time, the same log and the same writes. With the {EARLIER_TURNS} earlier turns of the chats above the "
        f"prompt has {run.prompt_tokens:.0f} tokens: ${with_history:,.0f} for a million chats."
    )


def _tell_the_prices(section: Section) -> None:
    rows = [
        [name.replace("_", " "), f"${price['usd']:g} for {price['per']:,}", price["source"], price["read"]]
        for name, price in PRICES.items()
    ]
    section.say("The prices (benchmarks/prices.toml):")
    section.table(["unit", "price", "read at", "on"], rows)
