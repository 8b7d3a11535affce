// OpenAI's client and Vercel's AI SDK. tests/judges runs it in .tools/judges-node.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { test } from "node:test";

const require = createRequire(process.env.JUDGES_MODULES + "/x.js");
const load = (name) => import(pathToFileURL(require.resolve(name)).href);
const OpenAI = (await load("openai")).default;
const { generateObject, generateText, stepCountIs, streamText, tool } = await load("ai");
const { createOpenAI } = await load("@ai-sdk/openai");
const { z } = await load("zod");

const baseURL = process.env.JUDGED_URL, apiKey = process.env.JUDGED_KEY;
const HELLO = '[stand-in model] You said "hello".';
const client = new OpenAI({ baseURL, apiKey });

test("openai-node: background", async () => {
  let response = await client.responses.create({ model: "general", input: "hello", background: true });
  while (["queued", "in_progress"].includes(response.status)) {
    await new Promise((resolve) => setTimeout(resolve, 200));
    response = await client.responses.retrieve(response.id);
  }
  assert.equal(response.output_text, HELLO);
  await client.responses.delete(response.id);
  await assert.rejects(client.responses.retrieve(response.id), OpenAI.NotFoundError);
});

test("openai-node: stream", async () => {
  const stream = client.responses.stream({ model: "general", input: "hello" });
  let text = "";
  for await (const event of stream) if (event.type === "response.output_text.delta") text += event.delta;
  assert.equal(text, HELLO);
  assert.equal((await stream.finalResponse()).output_text, HELLO);
});

test("openai-node: chat completions", async () => {
  const messages = [{ role: "user", content: "hello" }];
  const plain = await client.chat.completions.create({ model: "general", messages });
  assert.equal(plain.choices[0].message.content, HELLO);
  let text = "";
  for await (const chunk of await client.chat.completions.create({ model: "general", messages, stream: true }))
    text += chunk.choices[0]?.delta?.content ?? "";
  assert.equal(text, HELLO);
});

const provider = createOpenAI({ baseURL, apiKey });
for (const [api, model] of [["responses", provider("general")], ["chat", provider.chat("general")]]) {
  test(`AI SDK, ${api}: text`, async () => {
    assert.equal((await generateText({ model, prompt: "hello" })).text, HELLO);
  });

  test(`AI SDK, ${api}: stream`, async () => {
    const result = streamText({ model, prompt: "hello" });
    let text = "";
    for await (const piece of result.textStream) text += piece;
    assert.equal(text, HELLO);
  });

  test(`AI SDK, ${api}: object`, async () => {
    const { object } = await generateObject({ model, schema: z.object({ name: z.string() }), prompt: "I'm Ann" });
    assert.deepEqual(object, { name: "Ann" });
  });

  test(`AI SDK, ${api}: tool loop`, async () => {
    const called = [];
    const add = tool({
      description: "Adds one.",
      inputSchema: z.object({ number: z.number() }),
      execute: async ({ number }) => { called.push(number); return String(number + 1); },
    });
    const { text } = await generateText({ model, tools: { add }, stopWhen: stepCountIs(3), prompt: "add 3" });
    assert.deepEqual(called, [3]);
    assert.match(text, /The tools said: .*4/);
  });
}
