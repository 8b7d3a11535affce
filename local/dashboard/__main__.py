"""`python -m local.dashboard`: chat for a while on a local stack, and draw the dashboard of the template from what was
measured, into docs/dashboard.svg."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from local.dashboard.load import Load
from local.dashboard.metrics import log_lines
from local.dashboard.picture import Picture
from local.deploy import DeployFailed
from local.emulator import EmulatorFailed
from local.progress import Progress
from local.stack import LocalStack
from local.tools import ROOT, ToolMissing

# So that the picture has a cost estimate: the prices of gpt-4.1-mini at its release (OpenAI, April 2025).
_PARAMETERS = {
    "ModelPrices": "gpt-4.1-mini:0.4/1.6",
    "WorkerConcurrency": "6",  # With two workers, as elsewhere here, chats would wait for the slowest turns.
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m local.dashboard", description="A picture of the dashboard.")
    parser.add_argument("--seconds", type=float, default=90, help="of chats (90)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "dashboard.svg")
    asked = parser.parse_args()
    progress = Progress()
    try:
        with LocalStack(parameters=_PARAMETERS, progress=progress) as stack:
            cloudwatch = stack.client("cloudwatch")
            body = cloudwatch.get_dashboard(DashboardName=stack.outputs["DashboardName"])["DashboardBody"]
            alarms = cloudwatch.describe_alarms()["MetricAlarms"]
            load = Load(stack, asked.seconds)
            with progress.step(f"chats for {asked.seconds:.0f} s") as step:
                load.run(step.tell)
            progress.say(f"  {_bytes_logged(load)}")
            picture = Picture(json.loads(body), alarms, load)
            asked.out.write_text(picture.svg())
    except (ToolMissing, EmulatorFailed, DeployFailed, OSError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    progress.say(f"  {asked.out}")
    return 0


def _bytes_logged(load: Load) -> str:
    """Log bytes of the chats, because CloudWatch bills each byte."""
    lines = list(log_lines(load.logs))
    chats = sum("TaskSubmitted" in line for line in lines)
    of_all = sum(map(_bytes, lines)) / chats
    of_metrics = sum(_bytes(line) for line in lines if "_aws" in line) / chats
    return f"{of_all:,.0f} bytes of log a chat, of which {of_metrics:,.0f} are metrics"


def _bytes(line: dict[str, Any]) -> int:
    return len(json.dumps(line).encode()) + 1


if __name__ == "__main__":
    sys.exit(main())
