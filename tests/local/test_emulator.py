"""MiniStack as a child process."""

from pathlib import Path

import pytest

from local.account import Account
from local.emulator import Emulator, EmulatorFailed
from local.loopback import LoopbackServer, Response
from local.processes import Processes
from local.tools import Tools


def test_what_it_said_is_told_if_it_does_not_start(tools: Tools, processes: Processes, tmp_path: Path) -> None:
    taken = LoopbackServer(lambda request: Response(404))

    with pytest.raises(EmulatorFailed, match="already in use"):
        Emulator(processes, tools.emulator_python, port=taken.port, folder=tmp_path, log=tmp_path / "log")

    taken.close()


def test_a_profile_or_a_proxy_of_the_shell_does_not_lead_away(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")

    answer = Account(account.endpoint_url).client("sts").get_caller_identity()

    assert answer["Arn"].endswith(":root")
    Account(account.endpoint_url).client("sqs").list_queues()
