"""What binds first as load grows, by arithmetic and by a discrete simulation. docs/scale.md reads its results."""

import statistics

from benchmarks import on_lambda
from benchmarks.report import Chart, Section, draw
from benchmarks.scale import demand, overhead, scenarios

LOADS = (1, 2, 5, 10, 15, 20, 25, 28, 30, 31, 32)


def run() -> Section:
    section = Section("scale", "Scale")
    _say_overhead(section)
    section.say("What a load asks for: small asynchronous chats, polled as the JavaScript client does with `wait: 0`.")
    section.table(demand.HEAD, [demand.row(rate) for rate in demand.RATES])
    section.say("What binds first, by AWS's defaults (docs/scale.md has their sources):")
    section.table(demand.BINDING_HEAD, demand.binding_rows())
    section.say(
        f"Simulated: the model lognormal, mean {demand.MEAN:g} s, sigma {demand.SIGMA:g}; the event source begins with "
        "5 pollers and has 5 more each second while messages wait; each chat is of a session of its own. Waits and "
        "times are of the answered, from the submit."
    )
    trouble = _outage() + _quota()
    drawn = _burst() + trouble + _day() + _session()
    loads = [scenarios.steady(rate) for rate in LOADS]
    section.table(scenarios.HEAD, [scenarios.row(scenario) for scenario in [*loads, *drawn]])
    section.say(
        "What trouble at the model costs. It ends when the model is back, or when the chats ask for no more than it "
        "grants. The last answer is that of the chats submitted before. The dollars are an upper bound: each batch has "
        "one message."
    )
    section.table(scenarios.TROUBLE_HEAD, [scenarios.trouble_row(scenario) for scenario in trouble])
    _draw_loads(loads)
    section.plot("scale-steady.svg", "Steady load: queue wait, and batches, by chats a second; workers over time")
    section.plot("scale-outage.svg", "The model gone for 5 minutes: queue wait, and the workers, over time")
    return section


def _say_overhead(section: Section) -> None:
    measured = overhead.measured()
    section.say(
        "What our functions take beside the model, measured here under the real runtime client with services that "
        "answer at once; the simulation has it rounded, so that it is the same each time. A function of 256 MB has "
        f"256/{on_lambda.MB_OF_A_CPU:,} of a vCPU, and a call of AWS is taken to last "
        f"{on_lambda.NETWORK_SECONDS * 1000:g} ms."
    )
    section.table(
        ["function", "start, s", "assumed", "CPU each, ms", "assumed"],
        [
            [place, f"{cost.init:.2f}", f"{assumed.init:.1f}", f"{1000 * cost.cpu:.1f}", f"{1000 * assumed.cpu:g}"]
            for place, assumed in overhead.ASSUMED.items()
            for cost in [measured[place]]
        ],
    )


def _draw_loads(loads: list[scenarios.Scenario]) -> None:
    waits = {
        f"p{part}": [
            (rate, scenarios.percentile(sorted(turn.wait for turn in scenario.run.turns), part))
            for rate, scenario in zip(LOADS, loads, strict=True)
        ]
        for part in (50, 95, 99)
    }
    fill = [
        (float(rate), statistics.fmean(batch.turns for batch in scenario.run.batches))
        for rate, scenario in zip(LOADS, loads, strict=True)
    ]
    ten = {"10/s": loads[LOADS.index(10)]}
    draw(
        "scale-steady.svg",
        Chart("Wait by load, 20 workers", "chats/s", "queue wait, s", lines=waits),
        Chart("Turns in a batch, by load", "chats/s", "turns", lines={"mean": fill}),
        scenarios.count_chart("Steady 10/s", "workers at work", "workers", 180, ten),
    )


def _burst() -> list[scenarios.Scenario]:
    runs = {f"{count} workers": scenarios.burst(count) for count in (20, 50, 200)}
    runs["100, pollers there"] = scenarios.burst(100, pollers=100)
    draw(
        "scale-burst.svg",
        scenarios.count_chart("1,000 chats in a second", "waiting", "waiting", 90, runs, unit=1),
        scenarios.count_chart("1,000 chats in a second", "workers at work", "workers", 90, runs, unit=1),
    )
    return list(runs.values())


def _outage() -> list[scenarios.Scenario]:
    runs = {kind: scenarios.outage(kind, reply) for kind, reply in scenarios.OUTAGES.items()}
    draw(
        "scale-outage.svg",
        scenarios.wait_chart("Model gone, minute 5 to 10", 120, runs),
        scenarios.count_chart("Model gone, minute 5 to 10", "waiting or backing off", "waiting", 180, runs),
        scenarios.count_chart("Model gone, minute 5 to 10", "workers at work", "workers", 180, runs),
    )
    return list(runs.values())


def _quota() -> list[scenarios.Scenario]:
    runs = {f"{count} workers": scenarios.quota(count) for count in (20, 7, 5)}
    _draw_waits_and_workers("scale-quota.svg", "10/s for 10 min, 8.3/s granted", runs)
    return list(runs.values())


def _day() -> list[scenarios.Scenario]:
    runs = {f"{count} workers": scenarios.day(count) for count in (20, 50)}
    _draw_waits_and_workers("scale-day.svg", "2 to 38 chats/s and back", runs)
    return list(runs.values())


def _draw_waits_and_workers(file: str, title: str, runs: dict[str, scenarios.Scenario]) -> None:
    workers = scenarios.count_chart(title, "workers at work", "workers", 180, runs)
    draw(file, scenarios.wait_chart(title, 120, runs), workers)


def _session() -> list[scenarios.Scenario]:
    runs = {"one session": scenarios.one_session()}
    draw(
        "scale-session.svg",
        scenarios.count_chart("50 messages in one session", "waiting", "waiting", 180, runs, unit=1),
        scenarios.count_chart("50 messages in one session", "workers at work", "workers", 180, runs, unit=1),
    )
    return list(runs.values())
