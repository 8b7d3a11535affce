import { createClient, type TaskStatus, TurnqueueError } from "turnqueue";

export async function answer(task: TaskStatus): Promise<string> {
  if (task.status === "SUCCESS") return task.result.message;
  try {
    return (await createClient({ baseUrl: "https://api.example" }).poll(task.task_id)).message;
  } catch (error) {
    return error instanceof TurnqueueError ? error.code : "";
  }
}
