"""`python -m local demo`: start everything, show a chat in each mode, stop. `python -m local run`: the same,
but go on serving until Ctrl-C. The exit code is 0 if all went as it should."""

import argparse
import signal
import sys
import threading
import time
from types import FrameType

from local import demo
from local.deploy import DeployFailed
from local.emulator import EmulatorFailed
from local.progress import Progress
from local.stack import TOKEN_SECONDS, LocalStack, model_of_the_shell
from local.tools import ToolMissing


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m local", description="Turnqueue on this machine, without AWS.")
    parser.add_argument("command", choices=["run", "demo"], help="serve until Ctrl-C, or show and stop")
    command = parser.parse_args().command
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    progress = Progress()
    started = time.monotonic()
    try:
        model = model_of_the_shell()
        progress.say("Starting Turnqueue: an emulated AWS account, nothing outside this machine.")
        with LocalStack(model=model, progress=progress) as stack:
            which = "the stand-in model" if stack.model.stand_in else f"the model at {stack.model.base_url}"
            progress.say(f"  Ready after {time.monotonic() - started:.1f} s, with {which}. Logs: {stack.logs}")
            try:
                demo.show(stack, progress)
                progress.say("\nAll of it is as it should be.")
            except demo.Unexpected as error:
                if command == "demo":
                    raise
                progress.say(f"\nNot as it should be: {error}. It is served all the same.")
            if command == "run":
                _serve(stack, progress)
    except (ToolMissing, EmulatorFailed, DeployFailed, demo.Unexpected, OSError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        progress.say("\nStopped.")
        return 130 if command == "demo" else 0
    return 0


def _serve(stack: LocalStack, progress: Progress) -> None:
    """Until a KeyboardInterrupt."""
    progress.say(f"\nThe console:  {stack.console.url}/   until Ctrl-C")
    progress.say(f"The API:      {stack.api_url}")
    progress.say(f"The account:  {stack.emulator.account.endpoint_url}   (AWS_ENDPOINT_URL; key and secret: local)")
    progress.say(f"The model:    {stack.model_url}")
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
