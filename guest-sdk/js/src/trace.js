// An error as one line of the log, with the places in the handler's own source.

/** What the build appends: `sources` (an empty one is the SDK's), and a source map's `mappings`. */
let map;
let segments;

export function setMap(given) {
    map = given;
    segments = undefined;
}

const MESSAGE_MAX = 1000;
const FRAMES_MAX = 8;
const CAUSES_MAX = 3;

/** @returns {string} `TypeError: x is not a function; at f (src/handler.ts:12:7); at ..` */
export function describe(thrown) {
    const parts = [];
    for (let error = thrown; parts.length < CAUSES_MAX; error = error.cause) {
        parts.push(one(error));
        if (!(error instanceof Error) || error.cause === undefined) break;
    }
    return parts.join("; caused by ").toWellFormed();
}

function one(error) {
    if (!(error instanceof Error)) return `something that is no Error was thrown: ${cut(text(error))}`;
    const name = text(error.name) || "Error";
    const message = text(error.message);
    return [cut(message === "" ? name : `${name}: ${message}`), ...frames(error.stack)].join("; ");
}

function text(value) {
    try {
        return typeof value === "object" && value !== null ? JSON.stringify(value) : String(value);
    } catch {
        return typeof value;
    }
}

function cut(text) {
    return text.length > MESSAGE_MAX ? `${text.slice(0, MESSAGE_MAX)}..` : text;
}

const FRAME = /^\s*at (?:(.*) \()?(?:[^()]*):(\d+):(\d+)\)?$/;

function frames(stack) {
    const all = [];
    for (const line of text(stack).split("\n")) {
        const match = FRAME.exec(line);
        if (match === null) continue;
        const where = map === undefined ? undefined : place(Number(match[2]), Number(match[3]));
        if (where === undefined) continue;
        const name = match[1];
        all.push(name && name !== "<anonymous>" ? `at ${name} (${where})` : `at ${where}`);
    }
    return all.length > FRAMES_MAX ? [...all.slice(0, FRAMES_MAX), `and ${all.length - FRAMES_MAX} more`] : all;
}

/** The place in the source of one in the bundle, where it is the handler's own or of something that it depends on. */
export function place(line, column) {
    segments ??= decodeMappings(map.mappings);
    let found;
    for (const segment of segments[line - 1] ?? []) {
        if (segment[0] > column - 1) break;
        found = segment;
    }
    // A line without segments before the column belongs to nothing.
    if (found === undefined || found.length < 4) return undefined;
    const source = map.sources[found[1]];
    return source === "" ? undefined : `${source}:${found[2] + 1}:${found[3] + 1}`;
}

const DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/** Per line: `[column, source, line, column]`, all from 0. */
function decodeMappings(mappings) {
    const values = new Map(Array.from(DIGITS, (digit, value) => [digit, value]));
    let [source, line, column] = [0, 0, 0];
    return mappings.split(";").map((text) => {
        let generated = 0;
        return text.split(",").filter((segment) => segment !== "").map((segment) => {
            const deltas = [];
            let [value, shift] = [0, 0];
            for (const digit of segment) {
                const bits = values.get(digit);
                value |= (bits & 31) << shift;
                shift += 5;
                if (bits & 32) continue;
                deltas.push(value & 1 ? -(value >>> 1) : value >>> 1);
                [value, shift] = [0, 0];
            }
            generated += deltas[0];
            if (deltas.length < 4) return [generated];
            source += deltas[1];
            line += deltas[2];
            column += deltas[3];
            return [generated, source, line, column];
        });
    });
}
