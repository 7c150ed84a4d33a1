import { parseBytes, stringifyBytes } from "./json.js";
import { decodeLossy, encode } from "./utf8.js";

/** What the sender gets once its message is durable: a body of any type. */
export class Reply {
    /**
     * @param {string} contentType
     * @param {Uint8Array} body
     */
    constructor(contentType, body) {
        if (typeof contentType !== "string") {
            throw new TypeError(`a reply's content type is a string, not ${typeof contentType}`);
        }
        this.contentType = contentType;
        this.body = toBytes(body, "a reply's body");
    }
    /** `value` as JSON; undefined as null. */
    static json(value) {
        const body = stringifyBytes(value === undefined ? null : value);
        if (body === undefined) throw new TypeError(`a reply of ${typeof value} has no form in JSON`);
        return new Reply("application/json", body);
    }
    static text(text) {
        return new Reply("text/plain; charset=utf-8", encode(String(text)));
    }
    static bytes(body, contentType = "application/octet-stream") {
        return new Reply(contentType, body);
    }
    /** The body from JSON. */
    json() {
        return parseBytes(this.body);
    }
    /** The body as text. */
    text() {
        return decodeLossy(this.body);
    }
}

export function toBytes(value, what) {
    if (value instanceof Uint8Array) return value;
    if (value instanceof ArrayBuffer) return new Uint8Array(value);
    if (ArrayBuffer.isView(value)) return new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
    throw new TypeError(`${what} is a Uint8Array, not ${value === null ? "null" : typeof value}`);
}
