/** Waiting that leaves no timer and no listener behind. */

/** Resolves after `ms`, or before that when the browser is back online, `target` tells "wake", or `signal` aborts. */
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

/** Do `work` while no other tab does work under this name. If the browser gives us no lock, do it at once. */
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
