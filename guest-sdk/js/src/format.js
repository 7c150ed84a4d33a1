// What `console.log` makes of its values: text as it is, errors with their trace, the rest as JSON
// would have it, bounded. A line of the log has 2,048 bytes.

import { describe } from "./trace.js";

const DEPTH_MAX = 4;
const ITEMS_MAX = 50;

export function format(values) {
    return values.map((value) => (typeof value === "string" ? value : inspect(value, 0))).join(" ");
}

function inspect(value, depth) {
    switch (typeof value) {
        case "string":
            return JSON.stringify(value);
        case "bigint":
            return `${value}n`;
        case "function":
            return `[function ${value.name || "without name"}]`;
        case "object":
            return value === null ? "null" : object(value, depth);
        default:
            return String(value);
    }
}

function object(value, depth) {
    if (value instanceof Error) return describe(value);
    if (value instanceof Date) return Number.isNaN(value.getTime()) ? "Invalid Date" : value.toISOString();
    if (value instanceof RegExp) return String(value);
    if (depth >= DEPTH_MAX) return Array.isArray(value) ? "[..]" : "{..}";
    if (value instanceof Map) {
        return `Map ${list("{", [...value].map(([k, v]) => `${inspect(k, depth + 1)} => ${inspect(v, depth + 1)}`), "}")}`;
    }
    if (value instanceof Set) return `Set ${list("{", Array.from(value, (item) => inspect(item, depth + 1)), "}")}`;
    if (Array.isArray(value) || (ArrayBuffer.isView(value) && !(value instanceof DataView))) {
        const shown = Array.from(value.slice(0, ITEMS_MAX + 1), (item) => inspect(item, depth + 1));
        return (Array.isArray(value) ? "" : `${value.constructor.name} `) + list("[", shown, "]");
    }
    const entries = Object.entries(value).slice(0, ITEMS_MAX + 1);
    return list("{", entries.map(([key, item]) => `${key}: ${inspect(item, depth + 1)}`), "}");
}

function list(open, items, close) {
    const shown = items.length > ITEMS_MAX ? [...items.slice(0, ITEMS_MAX), ".."] : items;
    const space = open === "{" && shown.length > 0 ? " " : "";
    return `${open}${space}${shown.join(", ")}${space}${close}`;
}
