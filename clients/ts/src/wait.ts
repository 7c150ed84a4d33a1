// Waiting: with an end, a signal, and the browser's word on whether there is a network.

/** The longest that `setTimeout` takes. */
const TIMER_MAX = 2 ** 31 - 1;

export interface Backoff {
  /** The bound of the first pause, in milliseconds. */
  base: number;
  /** The bound of all. */
  max: number;
}

/** Full jitter: anything up to a bound that doubles, so that clients which failed together do not come back together. */
export const jitter = (failures: number, { base, max }: Backoff): number =>
  Math.random() * Math.min(max, base * 2 ** Math.min(failures, 30));

/** Only browsers know, and only `false` is certain. */
export const isOffline = (): boolean => globalThis.navigator?.onLine === false;

export const onOnline = (wake: () => void): (() => void) => {
  globalThis.addEventListener?.("online", wake);
  return () => globalThis.removeEventListener?.("online", wake);
};

const noop = () => {};

/** The promise's outcome, or the signal's reason if that comes first. */
export function race<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason);
    if (signal.aborted) abort();
    signal.addEventListener("abort", abort, { once: true });
    promise.then(resolve, reject).then(() => signal.removeEventListener("abort", abort));
  });
}

/** Waits so long, less if the network comes back, and without an end while there is none. */
export async function pause(ms: number, signal: AbortSignal): Promise<void> {
  let stop: () => void = noop;
  const woken = new Promise<void>((wake) => {
    const timer = isOffline() ? undefined : setTimeout(wake, Math.min(ms, TIMER_MAX));
    const off = onOnline(wake);
    stop = () => {
      clearTimeout(timer);
      off();
    };
  });
  await race(woken, signal).finally(stop);
}

/** A signal that ends with another, or after a time. */
export class Limit {
  readonly #controller = new AbortController();
  readonly #outer: (AbortSignal | undefined)[];
  #timer: ReturnType<typeof setTimeout> | undefined;
  #ended = false;
  /** Whether it was the time. */
  late = false;
  /** Whether a request was made within it. */
  isAsked = false;

  constructor(ms: number, ...outer: (AbortSignal | undefined)[]) {
    this.#outer = outer;
    for (const signal of outer) {
      if (signal?.aborted) this.#controller.abort(signal.reason);
      signal?.addEventListener("abort", this.#abort);
    }
    this.restart(ms);
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** From now on again. */
  restart(ms: number): void {
    clearTimeout(this.#timer);
    if (ms > TIMER_MAX || this.#ended) return;
    this.#timer = setTimeout(() => {
      this.late = true;
      this.#controller.abort(new Error(`not done within ${ms} ms`));
    }, ms);
  }

  abort(reason: unknown): void {
    this.#controller.abort(reason);
  }

  end(): void {
    this.#ended = true;
    clearTimeout(this.#timer);
    for (const signal of this.#outer) signal?.removeEventListener("abort", this.#abort);
  }

  readonly #abort = (event: globalThis.Event): void => {
    this.#controller.abort((event.target as AbortSignal).reason);
  };
}
