"""`python -m operations`: see docs/operations.md. The exit code is 0 if all went as it should."""

import argparse
import os
import re
import shlex
import sys
import time

from botocore.exceptions import BotoCoreError, ClientError

from operations.forget import NotDeleted, forget
from operations.replay import CODES, Replayed, Wanted, replay
from operations.restore import restore
from operations.smoke import SmokeFailed, sign_in, smoke
from operations.stack import Stack, StackNotFound

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def main() -> int:
    options = _parser().parse_args()
    try:
        code: int = options.run(options)
        return code
    except (StackNotFound, SmokeFailed, NotDeleted, ClientError, BotoCoreError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. It may be repeated.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m operations", description="What an operator does to a stack.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    of_stack = argparse.ArgumentParser(add_help=False)
    of_stack.add_argument("--stack", required=True, metavar="NAME", help="the CloudFormation stack")
    of_stack.add_argument("--region", help="where it is, if not in the region of the environment")

    command = commands.add_parser("replay", parents=[of_stack], help="queue failed tasks once more")
    command.add_argument("--code", action="append", choices=CODES, help="failed how; repeatable (worker_lost)")
    command.add_argument("--since", type=_seconds, metavar="24h", help="failed at most so long ago: 90s, 15m, 24h, 7d")
    command.add_argument("--owner", metavar="SUB", help="only tasks of this owner, the `sub` of his tokens")
    command.add_argument("--session", metavar="ID", help="only tasks of this session")
    command.add_argument("--limit", type=int, metavar="N", help="at most so many")
    command.add_argument("--dry-run", action="store_true", help="only say what would be queued")
    command.add_argument("task_ids", nargs="*", metavar="TASK_ID", help="only these tasks")
    command.set_defaults(run=_replay)

    command = commands.add_parser("forget", parents=[of_stack], help="delete an owner's data")
    command.add_argument("--owner", required=True, metavar="SUB", help="the `sub` of his tokens")
    command.add_argument("--yes", action="store_true", help="do it; without this it only says what it would delete")
    command.set_defaults(run=_forget)

    command = commands.add_parser("restore", parents=[of_stack], help="put turns back that a restored table has")
    command.add_argument("--from", required=True, dest="source", metavar="TABLE", help="the restored table")
    command.add_argument("--owner", metavar="SUB", help="only turns of this owner")
    command.add_argument("--dry-run", action="store_true", help="only count")
    command.set_defaults(run=_restore)

    command = commands.add_parser("smoke", help="send one chat, and wait for its answer; needs a token")
    command.add_argument("--stack", metavar="NAME", help="the CloudFormation stack")
    command.add_argument("--region", help="where it is, if not in the region of the environment")
    command.add_argument("--url", help="the API, if not the stack's output ApiUrl")
    command.epilog = "API_TOKEN is a bearer token, or API_USER and API_PASSWORD are a user's of the stack's own pool."
    command.set_defaults(run=_smoke)
    return parser


def _seconds(text: str) -> int:
    found = re.fullmatch("([0-9]{1,6})([smhd])", text)
    if not found:
        raise argparse.ArgumentTypeError("a number and s, m, h or d: 24h, for example")
    return int(found[1]) * _UNITS[found[2]]


def _replay(options: argparse.Namespace) -> int:
    wanted = Wanted(
        codes=options.code or ("worker_lost",),
        since=0.0 if options.since is None else time.time() - options.since,
        owner=options.owner,
        session_id=options.session,
        task_ids=options.task_ids,
        limit=options.limit,
    )
    done: Replayed = replay(Stack(options.stack, options.region), wanted, dry_run=options.dry_run)
    verb = "would be queued" if options.dry_run else "queued"
    print(f"{len(done.task_ids)} {verb}, {done.changed} changed meanwhile; {done.units:g} read units")
    return 0


def _forget(options: argparse.Namespace) -> int:
    stack = Stack(options.stack, options.region)
    found = forget(stack, options.owner, dry_run=not options.yes)
    sessions = len({key.session for key in found.turns})
    print(
        f"{'deleted' if options.yes else 'would delete'}: {len(found.turns)} turns of {sessions} sessions,"
        f" {len(found.guards)} guards, {len(found.uploads)} uploads; {found.units:g} read units"
    )
    if not options.yes:
        print("Nothing is deleted yet. Repeat it with --yes.")
        return 0
    print(
        "What remains:\n"
        "- turns and images that came in meanwhile: repeat this until it finds none\n"
        "- guards of turns that are gone: hashes, for 24 hours and until DynamoDB's time to live comes to them\n"
        "- messages of these turns in the queue: keys, with the owner's id; each is dropped when it is received\n"
        "- backups for point-in-time recovery, for 35 days\n"
        "- log lines with the ids of tasks, for the retention of the logs (LogRetentionDays)"
    )
    if pool := stack.outputs.get("UserPoolId"):
        named = shlex.quote(f'sub = "{options.owner}"')
        print(
            "- the user in the stack's pool; to delete it, too:\n"
            f"    aws cognito-idp list-users --user-pool-id {pool} --filter {named} --query 'Users[].Username'\n"
            f"    aws cognito-idp admin-delete-user --user-pool-id {pool} --username USERNAME"
        )
    return 0


def _restore(options: argparse.Namespace) -> int:
    stack = Stack(options.stack, options.region)
    done = restore(stack, options.source, owner=options.owner, dry_run=options.dry_run)
    verb = "would be put back" if options.dry_run else "put back"
    print(f"{done.turns} {verb}, {done.present} are there, {done.expired} have expired; {done.units:g} read units")
    return 0


def _smoke(options: argparse.Namespace) -> int:
    token, user = os.environ.get("API_TOKEN", ""), os.environ.get("API_USER", "")
    if not options.stack and not (options.url and token):
        raise SmokeFailed("give --stack, or --url and API_TOKEN")
    stack = Stack(options.stack, options.region)
    if not token and not user:
        raise SmokeFailed("neither API_TOKEN nor API_USER and API_PASSWORD are set")
    token = token or sign_in(stack, user, os.environ.get("API_PASSWORD", ""))
    began = time.monotonic()
    task = smoke(options.url or stack.outputs["ApiUrl"], token)
    print(f"{task['task_id']} is SUCCESS after {time.monotonic() - began:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
