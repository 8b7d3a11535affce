/** The functions of the replaced api.js work as its users wrote them. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { configure, getChatTaskStatus, pollChatTask, sendChatMessage, TaskFailedError } from "../turnqueue.js";
import {
  ACCEPTED,
  answers,
  failed,
  fakeClock,
  problem,
  RESULT,
  running,
  serve,
  succeeded,
  task,
  TASK_ID,
} from "./support.js";

test("before configure() they say what is missing", async () => {
  await assert.rejects(sendChatMessage({ message: "Hello" }), { code: "not_configured" });
  await assert.rejects(pollChatTask(TASK_ID), { code: "not_configured" });
});

test("the first usage example of the replaced system, as written there", async (t) => {
  const { url, requests } = await serve(t, answers(task(), running(), succeeded()));
  configure({ baseUrl: url, token: "t", wait: 0, clock: fakeClock() });

  // Async mode
  const response = await sendChatMessage({message: "Hello"}, true);
  const taskId = response.data.task_id;

  // Poll for completion
  const result = await pollChatTask(taskId);

  assert.equal(taskId, TASK_ID);
  assert.deepEqual(result, RESULT);
  assert.deepEqual(
    requests.map(({ method, path, query }) => [method, path, query]),
    [
      ["POST", "/chat", { async_mode: "true" }],
      ...Array(3).fill(["GET", `/chat/task/${TASK_ID}`, {}]),
    ],
  );
});

test("the second usage example of the replaced system, as written there", async (t) => {
  const { url, requests } = await serve(t, answers(succeeded()));
  configure({ baseUrl: url, token: "t", wait: 0, clock: fakeClock() });
  const printed = [];
  const console = { log: (line) => printed.push(line) };

  // Send message in async mode
  const response = await sendChatMessage({
      message: "I need a haircut",
      session_id: "session_123"
  }, true);

  const taskId = response.data.task_id;

  // Poll until complete
  const result = await pollChatTask(taskId);
  console.log(result.message); // "I can help you with that..."

  assert.deepEqual(printed, ["I can help you with that haircut."]);
  assert.deepEqual(requests[0].body, { message: "I need a haircut", session_id: "session_123" });
});

test("responses have the shape of axios", async (t) => {
  const { url } = await serve(t, answers(running({ progress: 0.5 })));
  configure({ baseUrl: url, token: "t", wait: 0, clock: fakeClock() });
  const sent = await sendChatMessage({ message: "Hello" }, true);
  assert.equal(sent.status, 202);
  assert.deepEqual(sent.data, ACCEPTED.body);
  assert.equal(sent.headers["retry-after"], "1");
  const status = await getChatTaskStatus(sent.data.task_id);
  assert.equal(status.status, 200);
  assert.equal(status.data.status, "STARTED");
  assert.equal(status.data.progress, 0.5);
});

test("without asyncMode the answer comes with the response, whatever the server's flag", async (t) => {
  const { url, requests } = await serve(t, () => ({ body: RESULT }));
  configure({ baseUrl: url, token: "t" });
  const response = await sendChatMessage({ message: "Hello" });
  assert.equal(response.data.message, RESULT.message);
  assert.deepEqual(requests[0].query, { async_mode: "false" });
  assert.equal(requests.length, 1);
});

test("without asyncMode an answer that takes too long for one request is waited for", async (t) => {
  const { url, requests } = await serve(t, answers(running(), succeeded()));
  configure({ baseUrl: url, token: "t", wait: 0, clock: fakeClock() });
  const response = await sendChatMessage({ message: "Hello" }, false);
  assert.equal(response.status, 200);
  assert.deepEqual(response.data, RESULT);
  assert.equal(requests.length, 3);
});

test("a failed task rejects with its sentence", async (t) => {
  const { url } = await serve(t, answers(running(), failed("prompt_refused")));
  configure({ baseUrl: url, token: "t", wait: 0, clock: fakeClock() });
  await assert.rejects(pollChatTask(TASK_ID), (error) => {
    assert.ok(error instanceof TaskFailedError);
    assert.equal(error.message, "The model declined to answer this message.");
    return true;
  });
});

test("an error has its response where axios has it", async (t) => {
  const { url } = await serve(t, () => problem(422, "invalid_request"));
  configure({ baseUrl: url, token: "t" });
  await assert.rejects(sendChatMessage({ message: "" }, true), (error) => {
    assert.equal(error.response.status, 422);
    assert.equal(error.response.data.detail, "This is invalid_request.");
    assert.equal(error.response.headers["content-type"], "application/problem+json");
    return true;
  });
});
