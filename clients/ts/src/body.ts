// Bodies: JSON unless a content type says otherwise.

/** Bytes or text of any content type; everything else is sent as JSON. */
export type Bytes = Uint8Array | ArrayBuffer;

const OCTETS = "application/octet-stream";
const JSON_TYPE = "application/json";

export function encode(body: unknown, contentType?: string): { bytes: Uint8Array<ArrayBuffer>; contentType: string } {
  if (body instanceof ArrayBuffer || ArrayBuffer.isView(body)) {
    const view = body instanceof ArrayBuffer ? new Uint8Array(body) : new Uint8Array(body.buffer, body.byteOffset, body.byteLength);
    // A copy: what waits does not change.
    return { bytes: new Uint8Array(view), contentType: contentType ?? OCTETS };
  }
  const text = typeof body === "string" && contentType && !isJson(contentType) ? body : JSON.stringify(body);
  if (text === undefined) throw new TypeError("the message can't be written as JSON");
  return { bytes: new TextEncoder().encode(text), contentType: contentType ?? JSON_TYPE };
}

const isJson = (type: string): boolean => /^[^;]*[/+]json\s*(;|$)/i.test(type);

export function decode(bytes: Uint8Array, contentType: string): unknown {
  if (bytes.length === 0) return undefined;
  if (isJson(contentType)) {
    try {
      return JSON.parse(new TextDecoder().decode(bytes));
    } catch {
      return bytes;
    }
  }
  return /^text\//i.test(contentType) ? new TextDecoder().decode(bytes) : bytes;
}

/** A JSON object of slotd's with this library's names, and bytes where it has base64. Bodies stay as they are. */
export function shaped<T>(object: object): T {
  const entries = Object.entries(object).map(([name, value]): [string, unknown] =>
    name.endsWith("_base64")
      ? [name.slice(0, -7), Uint8Array.from(atob(value as string), (c) => c.charCodeAt(0))]
      : [name.replace(/_./g, (part) => part.slice(1).toUpperCase()), value],
  );
  return Object.fromEntries(entries) as T;
}
