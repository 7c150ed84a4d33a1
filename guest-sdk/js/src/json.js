// JSON as slotd's handlers speak it: UTF-8 bytes, and whole numbers of any size exact. A whole
// number that a JavaScript number can't hold exactly is read as a BigInt; a BigInt is written as
// its digits.

import { decode, encode } from "./utf8.js";

/**
 * @param {Uint8Array} bytes
 * @throws {SyntaxError} when the bytes are no JSON
 */
export function parseBytes(bytes) {
    let text;
    try {
        text = decode(bytes);
    } catch {
        throw new SyntaxError("it is not UTF-8");
    }
    return parse(text);
}

/** @param {string} text */
export function parse(text) {
    const value = JSON.parse(text);
    // To watch every number being read costs more than to look at the values once: only a text
    // with a number that lost digits is read again.
    return hasUnsafe(value) ? parseExact(text) : value;
}

/**
 * @param {boolean} [isKept] it is for this handler itself to read: it must come back of the same type, too
 * @returns {Uint8Array | undefined} undefined where the value has no form in JSON
 * @throws {TypeError} where its form would be read as something else
 */
export function stringifyBytes(value, isKept = false) {
    const text = stringify(value);
    if (text === undefined) return undefined;
    const why = inexact(value, isKept);
    if (why !== undefined) throw new TypeError(`${why}: it would not be read as it was`);
    return encode(text);
}

/**
 * What JSON.stringify writes as something else without a word: numbers that are not finite, those that
 * are read as BigInts, holes in arrays, and objects whose content is not in their properties.
 * @returns {string | undefined} the first that is found
 */
function inexact(root, isKept) {
    // `stringify` has refused what holds itself.
    const open = [root];
    while (open.length > 0) {
        const node = open.pop();
        if (typeof node === "number") {
            if (!Number.isFinite(node)) return `${node} is no number of JSON`;
            if (isKept && isUnsafe(node) && Math.abs(node) < WRITTEN_WITH_EXPONENT) {
                return `${node} is a whole number beyond 2^53, which is read as a BigInt: write a BigInt`;
            }
        } else if (typeof node === "function" || typeof node === "symbol") {
            return `a ${typeof node} has no form in JSON`;
        } else if (typeof node === "object" && node !== null && typeof node.toJSON !== "function") {
            const unlike = UNLIKE.find((type) => node instanceof type);
            if (unlike !== undefined) return `a ${unlike.name} has no form in JSON`;
            if (Array.isArray(node)) {
                for (let i = 0; i < node.length; i++) {
                    if (node[i] === undefined) return "undefined in an array has no form in JSON";
                    open.push(node[i]);
                }
            } else {
                for (const value of Object.values(node)) open.push(value);
            }
        }
    }
    return undefined;
}

/** From here on numbers are written with an exponent, and read as numbers. */
const WRITTEN_WITH_EXPONENT = 1e21;

const UNLIKE = [Map, Set, WeakMap, WeakSet, ArrayBuffer, DataView, Object.getPrototypeOf(Uint8Array), RegExp, Promise];

export function stringify(value) {
    if (typeof value === "bigint") return value.toString();
    try {
        return JSON.stringify(value);
    } catch (error) {
        // A BigInt inside is the usual reason; where it is another one, it shows again.
        if (!(error instanceof TypeError)) throw error;
        return stringifyExact(value);
    }
}

function hasUnsafe(root) {
    if (typeof root === "number") return isUnsafe(root);
    if (typeof root !== "object" || root === null) return false;
    const open = [root];
    while (open.length > 0) {
        const node = open.pop();
        const values = Array.isArray(node) ? node : Object.values(node);
        for (let i = 0; i < values.length; i++) {
            const value = values[i];
            if (typeof value === "number") {
                if (isUnsafe(value)) return true;
            } else if (typeof value === "object" && value !== null) {
                open.push(value);
            }
        }
    }
    return false;
}

function isUnsafe(number) {
    return (number > Number.MAX_SAFE_INTEGER || number < Number.MIN_SAFE_INTEGER);
}

const WHOLE = /^-?\d+$/;

// QuickJS and newer Node.js give a reviver the number's own text and write raw JSON; Node.js 20,
// where tests may run, does neither.
const HAS_SOURCE = (() => {
    let has = false;
    JSON.parse("1", (_key, value, context) => {
        has = context?.source === "1";
        return value;
    });
    return has;
})();

function parseExact(text) {
    if (!HAS_SOURCE) return parseMarked(text);
    return JSON.parse(text, (_key, value, { source }) =>
        typeof value === "number" && isUnsafe(value) && WHOLE.test(source) ? BigInt(source) : value);
}

function stringifyExact(value) {
    if (typeof JSON.rawJSON !== "function") return stringifyMarked(value);
    return JSON.stringify(value, (_key, value) =>
        typeof value === "bigint" ? JSON.rawJSON(value.toString()) : value);
}

const MARK = "\u{10fffd}big:";
const TOKENS = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;

function parseMarked(text) {
    const marked = text.replace(TOKENS, (token) =>
        WHOLE.test(token) && isUnsafe(Number(token)) ? `"${MARK}${token}"` : token);
    return JSON.parse(marked, (_key, value) =>
        typeof value === "string" && value.startsWith(MARK) ? BigInt(value.slice(MARK.length)) : value);
}

function stringifyMarked(value) {
    const marked = JSON.stringify(value, (_key, value) =>
        typeof value === "bigint" ? `${MARK}${value}` : value);
    return marked?.replace(new RegExp(`"${MARK}(-?\\d+)"`, "gu"), "$1");
}
