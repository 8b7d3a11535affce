/** upload(): the form of the API, posted to the storage, field by field. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { ApiError, createClient, NetworkError, TurnqueueError, UploadError } from "../turnqueue.js";
import { DROP, fakeClock, HANG, problem, serve } from "./support.js";

const PNG = new Uint8Array([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0x00, 0xff]);
const FILE = new File([PNG], "ünïcode.png", { type: "image/png" });

/** An API that offers a form each time it is asked, and a storage that answers by `storage(n)`. */
async function world(t, storage = () => ({ status: 204 }), options = {}) {
  let posts = 0;
  const s3 = await serve(t, () => storage(posts++));
  let offers = 0;
  const api = await serve(t, () => {
    const upload_id = `01M81JBBEJSNKKCARCWATXHY0${offers++}`;
    const fields = { "Content-Type": "image/png", key: `uploads/hash/${upload_id}`, policy: "eyJ9", "x-amz-signature": "5" };
    return {
      status: 201,
      body: { upload_id, url: `${s3.url}/bucket`, fields, expires_at: "2026-11-22T12:05:00.000Z", max_bytes: 10 },
    };
  });
  const clock = fakeClock();
  const client = createClient({ baseUrl: api.url, token: "t", clock, ...options });
  return { client, api, s3, clock };
}

async function parts({ headers, body }) {
  const form = await new Response(body, { headers: { "Content-Type": headers["content-type"] } }).formData();
  return [...form];
}

test("an image is put where the API says, and named as it says", async (t) => {
  const { client, api, s3 } = await world(t);
  assert.deepEqual(await client.upload(FILE), { type: "image", upload_id: "01M81JBBEJSNKKCARCWATXHY00" });

  const [asked] = api.requests;
  assert.deepEqual([asked.method, asked.path], ["POST", "/chat/media"]);
  assert.deepEqual(asked.body, { type: "image", content_type: "image/png", size: 10 });
  const [posted] = s3.requests;
  assert.deepEqual([posted.method, posted.path], ["POST", "/bucket"]);
  assert.equal(posted.headers.authorization, undefined, "the token is for the API alone");
  const fields = await parts(posted);
  assert.deepEqual(
    fields.map(([name]) => name),
    ["Content-Type", "key", "policy", "x-amz-signature", "file"],
  );
  assert.deepEqual(new Uint8Array(await fields.at(-1)[1].arrayBuffer()), PNG);
});

test("what the storage refuses is an UploadError, and not tried again", async (t) => {
  const { client, s3, clock } = await world(t, () => ({ status: 403, body: "<Error/>" }));
  await assert.rejects(client.upload(FILE), (error) => {
    assert.ok(error instanceof UploadError && error instanceof TurnqueueError);
    assert.equal(error.name, "UploadError");
    assert.deepEqual([error.status, error.code, error.retryable], [403, "upload_refused", false]);
    return true;
  });
  assert.equal(s3.requests.length, 1);
  assert.deepEqual(clock.slept, []);
});

for (const [what, first] of [
  ["a storage that fails", { status: 503, body: "<Error/>" }],
  ["a lost connection", DROP],
]) {
  test(`after ${what} it is tried again, with a form of its own`, async (t) => {
    const { client, api, s3, clock } = await world(t, (n) => (n === 0 ? first : { status: 204 }));
    assert.deepEqual(await client.upload(FILE), { type: "image", upload_id: "01M81JBBEJSNKKCARCWATXHY01" });
    assert.equal(api.requests.length, 2);
    assert.match((await parts(s3.requests.at(-1)))[1][1], /Y01$/);
    assert.equal(clock.slept.length, 1);
  });
}

test("it is tried as often as any request, and then given up", async (t) => {
  const { client, s3 } = await world(t, () => ({ status: 500 }), { attempts: 3 });
  await assert.rejects(client.upload(FILE), { code: "upload_refused", status: 500, retryable: true });
  assert.equal(s3.requests.length, 3);
});

test("what the API refuses is its problem", async (t) => {
  const { url } = await serve(t, () => problem(422, "invalid_request"));
  const client = createClient({ baseUrl: url, token: "t", clock: fakeClock() });
  await assert.rejects(client.upload(new Blob(["x"], { type: "text/html" })), (error) => {
    assert.ok(error instanceof ApiError);
    assert.equal(error.status, 422);
    return true;
  });
});

test("a storage that does not answer is waited for so long", async (t) => {
  const { client } = await world(t, () => HANG, { attempts: 1, uploadTimeoutMs: 20 });
  await assert.rejects(client.upload(FILE), (error) => {
    assert.ok(error instanceof NetworkError);
    assert.equal(error.code, "request_timeout");
    return true;
  });
});

test("an upload can be aborted", async (t) => {
  const controller = new AbortController();
  const reason = new Error("no more");
  const { client } = await world(t, () => {
    controller.abort(reason);
    return HANG;
  });
  await assert.rejects(client.upload(FILE, { signal: controller.signal }), { name: "AbortError", cause: reason });
});
