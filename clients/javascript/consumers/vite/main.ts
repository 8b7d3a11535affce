import { createClient, TaskFailedError } from "turnqueue";

const client = createClient({ baseUrl: "https://api.example" });
client
  .chat({ message: "Hello" }, { onProgress: ({ partial }) => (document.title = partial ?? "") })
  .then(({ message }) => (document.title = message))
  .catch((error: unknown) => (document.title = error instanceof TaskFailedError ? error.message : "?"));
