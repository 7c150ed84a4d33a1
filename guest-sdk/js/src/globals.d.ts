// What a handler finds beside the language itself. Left out where TypeScript's own `dom` library or
// Node.js's types are in use: those declare more than there is.

interface SlotdConsole {
    trace(...values: unknown[]): void;
    debug(...values: unknown[]): void;
    log(...values: unknown[]): void;
    info(...values: unknown[]): void;
    warn(...values: unknown[]): void;
    error(...values: unknown[]): void;
    assert(condition: unknown, ...values: unknown[]): void;
}
/** Lines of the node's log; `log` is at level info. */
declare var console: SlotdConsole;

declare class TextEncoder {
    readonly encoding: string;
    encode(text?: string): Uint8Array;
    encodeInto(text: string, target: Uint8Array): { read: number; written: number };
}
/** UTF-8 only. */
declare class TextDecoder {
    constructor(label?: string, options?: { fatal?: boolean; ignoreBOM?: boolean });
    readonly encoding: string;
    decode(bytes?: ArrayBufferView | ArrayBuffer): string;
}

/** The same for the same message, and so no secret. */
declare var crypto: {
    getRandomValues<T extends ArrayBufferView>(array: T): T;
    randomUUID(): `${string}-${string}-${string}-${string}-${string}`;
};
/** Stands at the message's time. */
declare var performance: { readonly timeOrigin: number; now(): number };

declare function atob(text: string): string;
declare function btoa(text: string): string;
declare function queueMicrotask(callback: () => void): void;
