// UTF-8, for QuickJS, which has no TextEncoder. Loops over characters are slow there, so the work
// is left to functions that it has natively.

const native = typeof TextDecoder === "function"
    ? { encoder: new TextEncoder(), decoder: new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }) }
    : undefined;

/** Lone surrogates become U+FFFD, as with TextEncoder. @returns {Uint8Array} */
export function encode(text) {
    if (native) return native.encoder.encode(text);
    if (text.length < 24) {
        const short = encodeShort(text);
        if (short) return short;
    }
    let bytes;
    try {
        bytes = Uint8Array.fromBase64(btoa(text));
    } catch {
        // There are characters above U+00FF.
    }
    if (bytes && isAscii(bytes)) return bytes;
    return Uint8Array.fromBase64(btoa(unescape(encodeURIComponent(text.toWellFormed()))));
}

function encodeShort(text) {
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) {
        const unit = text.charCodeAt(i);
        if (unit > 0x7f) return undefined;
        bytes[i] = unit;
    }
    return bytes;
}

/** @param {Uint8Array} bytes @throws {URIError | TypeError} when they are not UTF-8 */
export function decode(bytes) {
    if (native) return native.decoder.decode(bytes);
    const latin = bytes.length < 4096
        ? String.fromCharCode.apply(null, bytes)
        : atob(bytes.toBase64());
    // `escape` makes %xx of each byte, and what follows reads that as UTF-8, strictly.
    return isAscii(bytes) ? latin : decodeURIComponent(escape(latin));
}

function isAscii(bytes) {
    let at = 0;
    if (bytes.length >= 64 && bytes.byteOffset % 4 === 0) {
        const words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length >> 2);
        let all = 0;
        for (let i = 0; i < words.length; i++) all |= words[i];
        if (all & 0x80808080) return false;
        at = words.length * 4;
    }
    for (; at < bytes.length; at++) {
        if (bytes[at] > 0x7f) return false;
    }
    return true;
}

/** As TextDecoder reads what is not UTF-8: each bad piece becomes U+FFFD. */
export function decodeLossy(bytes) {
    try {
        return decode(bytes);
    } catch {
        let out = "";
        for (let i = 0; i < bytes.length; ) {
            const [point, length] = character(bytes, i);
            out += String.fromCodePoint(point);
            i += length;
        }
        return out;
    }
}

/** The character at `at`, and how many bytes it takes; U+FFFD for the longest bad piece. */
export function character(bytes, at) {
    const first = bytes[at];
    if (first < 0x80) return [first, 1];
    const [more, min, max] = first >= 0xc2 && first <= 0xdf ? [1, 0x80, 0xbf]
        : first === 0xe0 ? [2, 0xa0, 0xbf]
        : first === 0xed ? [2, 0x80, 0x9f]
        : first >= 0xe1 && first <= 0xef ? [2, 0x80, 0xbf]
        : first === 0xf0 ? [3, 0x90, 0xbf]
        : first === 0xf4 ? [3, 0x80, 0x8f]
        : first >= 0xf1 && first <= 0xf3 ? [3, 0x80, 0xbf]
        : [0, 0, 0];
    if (more === 0) return [0xfffd, 1];
    let point = first & (0x3f >> more);
    for (let i = 1; i <= more; i++) {
        const byte = bytes[at + i];
        if (!(i === 1 ? byte >= min && byte <= max : byte >= 0x80 && byte <= 0xbf)) return [0xfffd, i];
        point = (point << 6) | (byte & 0x3f);
    }
    return [point, more + 1];
}
