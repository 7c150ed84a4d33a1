// The bearer token: given, or asked for by a function, and renewed before its end.

import { SlotdError } from "./errors.js";

/** `expiresAt`: a date, or milliseconds since the epoch. Without it, a JWT's own `exp` counts. */
export type Token = string | { token: string; expiresAt?: number | Date };
/** A function is asked again before the token ends, and when a node has refused it. */
export type TokenSource = Token | (() => Token | Promise<Token>);

/** A token is renewed when a fifth of its life is left, a minute at most. */
const RENEW_PART = 0.2;
const RENEW_BEFORE_MS = 60_000;
/** A token that has ended already, by this machine's clock, which may be wrong, is used this long. */
const KEPT_MS_MIN = 10_000;

export class Tokens {
  readonly #source: TokenSource | undefined;
  #token: string | undefined;
  #asking: Promise<string> | undefined;
  /** When to ask for another one. */
  renewAt = Infinity;

  constructor(source: TokenSource | undefined) {
    this.#source = source;
    if (typeof source === "string" || (source && typeof source !== "function")) this.#keep(source);
  }

  /** Whether another token can be had. */
  get canRenew(): boolean {
    return typeof this.#source === "function";
  }

  /** The token to use now; another than `refused`. */
  async get(refused?: string): Promise<string | undefined> {
    if (this.#token !== undefined && this.#token !== refused && Date.now() < this.renewAt) return this.#token;
    const source = this.#source;
    if (typeof source !== "function") return this.#token;
    // One at a time, whoever asks.
    this.#asking ??= (async () => {
      try {
        return this.#keep(await source());
      } catch (error) {
        const retriable = (error as { retriable?: boolean })?.retriable ?? true;
        throw new SlotdError("token-unavailable", `no token: ${error}`, { retriable }, error);
      } finally {
        this.#asking = undefined;
      }
    })();
    return this.#asking;
  }

  #keep(given: Token): string {
    const { token, expiresAt } = typeof given === "string" ? { token: given } : given;
    if (typeof token !== "string" || token === "") throw new TypeError("the token is no text");
    this.#token = token;
    const now = Date.now();
    const life = Number(expiresAt ?? expiryOf(token)) - now;
    const renewIn = life > 0 ? Math.max(life * (1 - RENEW_PART), life - RENEW_BEFORE_MS) : KEPT_MS_MIN;
    this.renewAt = this.canRenew ? now + renewIn : Infinity;
    return token;
  }
}

/** When a JWT ends, without verifying it: that is the server's to do. Infinity for other tokens. */
export function expiryOf(token: string): number {
  try {
    const payload = (token.split(".")[1] ?? "").replaceAll("-", "+").replaceAll("_", "/");
    const { exp } = JSON.parse(atob(payload)) as { exp?: unknown };
    return typeof exp === "number" ? exp * 1000 : Infinity;
  } catch {
    return Infinity;
  }
}
