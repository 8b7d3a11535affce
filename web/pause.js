/** Resolves after `ms`, or earlier if the browser is online again, if `target` sends "wake", or if `signal` aborts. */
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

/**
 * Wait for the lock `name`, do `work`, and release the lock. Only one tab can hold the lock. If the browser has no
 * locks, do `work` immediately.
 */
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
