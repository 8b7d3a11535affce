const { ApiError, createClient } = require("turnqueue");

test("as CommonJS", async () => {
  const fetch = async () => ({ status: 401, headers: new Map(), text: async () => '{"message": "Unauthorized"}' });
  const client = createClient({ baseUrl: "https://api.example", fetch });
  const error = await client.task("t").catch((error) => error);
  expect(error).toBeInstanceOf(ApiError);
  expect(error.code).toBe("unauthorized");
});
