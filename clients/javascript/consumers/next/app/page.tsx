"use client";

import { useState } from "react";
import { createClient, type SucceededTask } from "turnqueue";

const client = createClient({ baseUrl: "https://api.example" });

export default function Page() {
  const [answer, setAnswer] = useState<SucceededTask["result"]["message"]>("");
  return <button onClick={async () => setAnswer((await client.chat({ message: "Hello" })).message)}>{answer}</button>;
}
