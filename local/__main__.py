"""`python -m local demo`: start everything, show a chat in each mode, stop. `python -m local run`: start everything,
show a chat in each mode, and serve until Ctrl-C. `python -m local invoke FUNCTION EVENT`: run one function of the
running stack on one event. The exit code is 0 on success."""

import argparse
import json
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

from local import demo, env_file
from local.deploy import DeployFailed
from local.emulator import EmulatorFailed
from local.progress import Progress
from local.stack import TOKEN_SECONDS, LocalStack, model_of_the_shell
from local.tools import ROOT, ToolMissing


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m local", description="Turnqueue on this machine, without AWS.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", help="serve until Ctrl-C")
    commands.add_parser("demo", help="show a chat in each mode, then stop")
    once = commands.add_parser("invoke", help="run a function of the stack that `run` serves")
    once.add_argument("function", help="the name of the function, such as submit")
    once.add_argument("event", type=Path, help="the file with the event, such as events/submit.json")
    once.add_argument(
        "--run", type=Path, default=ROOT / ".local", help="the folder of the running stack (default: .local)"
    )
    arguments = parser.parse_args()
    if arguments.command == "invoke":
        return _invoke(arguments.function, arguments.event, arguments.run)
    return _start(arguments.command)


def _invoke(function: str, event: Path, folder: Path) -> int:
    try:
        variables = env_file.read(folder)
    except env_file.NotRunning as error:
        print(error, file=sys.stderr)
        return 1
    env_file.lead_here(variables)
    from local import invoke

    try:
        returned = invoke.invoke(function, event, folder, variables)
    except (env_file.NotRunning, invoke.Failed, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(json.loads(returned), indent=2, ensure_ascii=False))
    return 0


def _start(command: str) -> int:
    # Set a handler for SIGINT too. If a script started this program in the background, the shell made this program
    # ignore SIGINT.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup makes a program ignore SIGHUP; keep this
        signal.signal(signal.SIGHUP, _end)
    progress = Progress()
    started = time.monotonic()
    try:
        model = model_of_the_shell()
        progress.say("Starting Turnqueue in an emulated AWS account on this machine.")
        with LocalStack(model=model, watch=True, progress=progress) as stack:
            which = "the stand-in model" if stack.model.stand_in else f"the model at {stack.model.base_url}"
            progress.say(f"  Ready after {time.monotonic() - started:.1f} s, with {which}. Logs: {stack.logs}")
            try:
                demo.show(stack, progress)
                progress.say("\nEvery chat worked.")
            except demo.Unexpected as error:
                if command == "demo":
                    raise
                progress.say(f"\nA chat failed: {error}. The stack keeps running.")
            if command == "run":
                with env_file.left(stack):
                    _serve(stack, progress)
    except (ToolMissing, EmulatorFailed, DeployFailed, demo.Unexpected, OSError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        progress.say("\nStopped.")
        return 130 if command == "demo" else 0
    return 0


def _serve(stack: LocalStack, progress: Progress) -> None:
    """Serve until a KeyboardInterrupt."""
    variables = env_file.read(stack.folder)
    env_file.lead_here(variables)
    from local import events

    events.leave(ROOT / "events", stack.folder / "events", variables)
    progress.say(f"\nThe console:  {stack.console.url}/   until Ctrl-C")
    progress.say(f"The API:      {stack.api_url}")
    if stack.stream_url:
        progress.say(f"Its streams:  {stack.stream_url}")
    progress.say(f"The account:  {stack.emulator.account.endpoint_url}   (AWS_ENDPOINT_URL; key and secret: local)")
    progress.say(f"The model:    {stack.model_url}")
    progress.say(f"For scripts:  {stack.folder / 'env'}")
    for owner, token in stack.tokens().items():
        progress.say(f"\n# as {owner}, for {TOKEN_SECONDS // 3600} hours")
        progress.say(f"TOKEN={token}")
    chat = """-H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' -d '{"message": "Hello"}'"""
    progress.say(f"\ncurl -i '{stack.api_url}/chat' {chat}")
    progress.say(f"curl -i '{stack.api_url}/chat?async_mode=true' {chat}")
    threading.Event().wait()


def _end(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
