// What a handler may expect of JavaScript's surroundings, made to be the message's: chance comes
// from the host, which seeds it by service, session and message, and the clock is the host's
// already. Used in a component and, around each call, by the harness.

import { format } from "./format.js";
import { decode, decodeLossy, encode } from "./utf8.js";

/**
 * @param {Chance} chance
 * @param {(level: string, text: string) => void} log
 */
export function globals(chance, log) {
    const write = (level) => (...values) => log(level, format(values).toWellFormed());
    return {
        values: {
            console: {
                trace: write("trace"),
                debug: write("debug"),
                log: write("info"),
                info: write("info"),
                warn: write("warn"),
                error: write("error"),
                assert: (fine, ...values) => fine || write("error")("assertion failed:", ...values),
            },
            TextEncoder,
            TextDecoder,
            crypto: {
                getRandomValues: (array) => chance.fill(array),
                randomUUID: () => chance.uuid(),
            },
            // QuickJS's own counts from the time of the build.
            performance: { timeOrigin: 0, now: () => Date.now() },
        },
        random: () => chance.number(),
    };
}

export function define(target, values) {
    for (const [name, value] of Object.entries(values)) {
        Object.defineProperty(target, name, { value, writable: true, configurable: true, enumerable: false });
    }
}

/** Chance of one call: the same for the same message. */
export class Chance {
    #host;
    #words;

    /** @param {{ random(bytes: number): Uint8Array }} host */
    constructor(host) {
        this.#host = host;
    }
    /** A call begins: what was drawn before must not show in it. */
    begin() {
        this.#words = undefined;
    }
    /** 53 random bits, by sfc32. */
    number() {
        // Copied: the view needs its bytes aligned.
        this.#words ??= new Uint32Array(this.#host.random(16).slice().buffer);
        const high = this.#next() >>> 5;
        const low = this.#next() >>> 6;
        return (high * 0x4000000 + low) / 0x20000000000000;
    }
    #next() {
        const words = this.#words;
        const a = words[0];
        const b = words[1];
        const c = words[2];
        const sum = (a + b + words[3]) | 0;
        words[3] += 1;
        words[0] = b ^ (b >>> 9);
        words[1] = c + (c << 3);
        words[2] = ((c << 21) | (c >>> 11)) + sum;
        return sum;
    }
    fill(array) {
        if (!ArrayBuffer.isView(array) || array instanceof DataView) {
            throw new TypeError("getRandomValues fills an array of whole numbers");
        }
        if (array.byteLength > 65536) throw new RangeError("getRandomValues fills 65536 bytes at most");
        const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
        if (bytes.length > 0) bytes.set(this.#host.random(bytes.length));
        return array;
    }
    uuid() {
        const bytes = this.fill(new Uint8Array(16));
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
        return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
    }
}

class TextEncoder {
    get encoding() {
        return "utf-8";
    }
    encode(text = "") {
        return encode(String(text));
    }
    encodeInto(text, target) {
        let read = 0;
        let written = 0;
        for (const character of text) {
            const bytes = encode(character);
            if (written + bytes.length > target.length) break;
            target.set(bytes, written);
            written += bytes.length;
            read += character.length;
        }
        return { read, written };
    }
}

class TextDecoder {
    #fatal;
    #keepsMark;
    constructor(label = "utf-8", { fatal = false, ignoreBOM = false } = {}) {
        if (!/^\s*(unicode-1-1-)?utf-?8\s*$/i.test(label)) {
            throw new RangeError(`TextDecoder knows utf-8 only, not ${label}`);
        }
        this.#fatal = fatal;
        this.#keepsMark = ignoreBOM;
    }
    get encoding() {
        return "utf-8";
    }
    decode(bytes = new Uint8Array(), { stream = false } = {}) {
        if (stream) throw new TypeError("TextDecoder does not read in pieces here");
        const view = bytes instanceof Uint8Array ? bytes
            : ArrayBuffer.isView(bytes) ? new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength)
            : new Uint8Array(bytes);
        let text;
        try {
            text = this.#fatal ? decode(view) : decodeLossy(view);
        } catch {
            throw new TypeError("the bytes are not UTF-8");
        }
        return text.startsWith("\ufeff") && !this.#keepsMark ? text.slice(1) : text;
    }
}
