import { createClient, newIdempotencyKey } from "turnqueue";

export function GET() {
  const client = createClient({ baseUrl: "https://api.example" });
  return Response.json({ calls: Object.keys(client), key: newIdempotencyKey() });
}
