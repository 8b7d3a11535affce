"""clients/javascript/turnqueue.d.ts with TypeScript's strictest settings."""

import subprocess
from pathlib import Path

from development.cfn import ROOT

FOLDER = ROOT / "clients" / "javascript"


def test_the_declarations_are_what_an_application_needs(node_tools: Path) -> None:
    """test/types.ts uses what it may; each use that must be an error is marked, and is an error if it is none."""
    strict = ["--strict", "--exactOptionalPropertyTypes", "--noUncheckedIndexedAccess", "--noEmit"]
    command = [str(node_tools / "tsc"), *strict, "--module", "nodenext", "--target", "es2022", "test/types.ts"]
    ran = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=50, check=False)
    assert ran.returncode == 0, ran.stdout


SAME = """
import type { components } from "./generated";
import type * as client from "CLIENT";

type Schemas = components["schemas"];
type Keys<T> = T extends unknown ? keyof T : never;
type Covers<A, B> = [Keys<A>] extends [Keys<B>] ? true : false;
type Same<A, B> = Covers<A, B> extends true ? Covers<B, A> : false;

export const same: {
  accepted: Same<client.Accepted, Schemas["Accepted"]>;
  answer: Same<client.ChatResponse, Schemas["ChatResponse"]>;
  attachment: Same<client.Attachment, Schemas["Media"]>;
  page: Same<client.SessionPage, Schemas["SessionPage"]>;
  request: Same<client.ChatRequest, Schemas["ChatRequest"]>;
  task: Same<client.TaskStatus, Schemas["TaskStatus"]>;
  turn: Same<client.SessionTurn, Schemas["SessionTurn"]>;
  usage: Same<client.Usage, Schemas["Usage"]>;
  usageDay: Same<client.UsageDay, Schemas["UsageDay"]>;
} = {
  accepted: true, answer: true, attachment: true, page: true, request: true, task: true, turn: true, usage: true,
  usageDay: true,
};

// The declarations say what the API sends.
export const usage = (it: Schemas["Usage"]): client.Usage => it;
export const usageDay = (it: Schemas["UsageDay"]): client.UsageDay => it;
export const answer = (it: Schemas["ChatResponse"]): client.ChatResponse => it;
// The API takes what the declarations allow. The generated types have no readonly arrays.
type Mutable<T> =
  T extends readonly (infer Each)[] ? Mutable<Each>[]
  : T extends object ? { [K in keyof T]: Mutable<T[K]> }
  : T;
type Request<T extends client.ChatRequest | Schemas["ChatRequest"]> = Omit<T, "role" | "media">;
export const request = (it: Mutable<Request<client.ChatRequest>>): Request<Schemas["ChatRequest"]> => it;
"""


def test_the_declarations_have_the_members_of_the_api_description(node_tools: Path, tmp_path: Path) -> None:
    generated = [
        str(node_tools / "openapi-typescript"),
        str(ROOT / "docs/openapi.yaml"),
        "-o",
        str(tmp_path / "generated.d.ts"),
    ]
    subprocess.run(generated, capture_output=True, timeout=50, check=True)
    (tmp_path / "same.ts").write_text(SAME.replace("CLIENT", str(FOLDER / "turnqueue.js")))
    command = [str(node_tools / "tsc"), "--strict", "--noEmit", "--module", "nodenext", "--target", "es2022", "same.ts"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False)
    assert ran.returncode == 0, ran.stdout
