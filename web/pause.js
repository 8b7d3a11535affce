/** Waits and removes its timer and listeners afterwards. */

/** Resolves after `ms`, or earlier if the browser is online again, `target` sends "wake", or `signal` aborts. */
export function pause(ms, { signal, target }) {
  return new Promise((resolve) => {
    const over = new AbortController();
    const end = () => {
      clearTimeout(timer);
      over.abort();
      resolve();
    };
    const timer = setTimeout(end, ms);
    for (const [source, event] of [[globalThis, "online"], [target, "wake"], [signal, "abort"]]) {
      source.addEventListener(event, end, { signal: over.signal });
    }
    if (signal.aborted) end();
  });
}

/** Do `work` while no other tab holds the lock of this name. If this browser has no locks, do `work` at once. */
export async function alone(name, signal, work) {
  if (!navigator.locks) return work();
  let begun = false;
  const locked = () => {
    begun = true;
    return work();
  };
  try {
    return await navigator.locks.request(`turnqueue:${name}`, { signal }, locked);
  } catch (error) {
    if (begun || signal.aborted) throw error;
    return work();
  }
}
