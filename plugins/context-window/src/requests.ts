// What can be sent and asked, and how JSON becomes that.

export const ROLES = ["user", "assistant", "tool"] as const;
export type Role = (typeof ROLES)[number];

export type Message =
    | { do: "configure"; budget?: number; last?: number | null; system?: string; systemTokens?: number }
    | { do: "append"; role: Role; content: string; tokens?: number; pin: boolean; window: boolean }
    | { do: "pin" | "unpin"; id: number };

export type Query =
    | { what: "window"; budget?: number }
    | { what: "messages"; after: number; limit: number }
    | { what: "stats" };

/** More, with their marks of JSON, would not fit into one reply of slotd's. */
export const BUDGET_MAX = 200_000;

export function parseMessage(value: unknown): Message {
    const fields = new Fields(value);
    const what = fields.oneOf("do", ["configure", "append", "pin", "unpin"] as const);
    switch (what) {
        case "configure":
            return {
                do: what,
                budget: fields.optional("budget", (name) => fields.whole(name, 1, BUDGET_MAX)),
                last: fields.has("last") && fields.isNull("last")
                    ? null
                    : fields.optional("last", (name) => fields.whole(name, 1, 100_000)),
                system: fields.optional("system", (name) => fields.text(name)),
                systemTokens: fields.optional("system_tokens", (name) => fields.whole(name, 0, BUDGET_MAX)),
            };
        case "append":
            return {
                do: what,
                role: fields.oneOf("role", ROLES),
                content: fields.text("content"),
                tokens: fields.optional("tokens", (name) => fields.whole(name, 0, BUDGET_MAX)),
                pin: fields.optional("pin", (name) => fields.flag(name)) ?? false,
                window: fields.optional("window", (name) => fields.flag(name)) ?? true,
            };
        case "pin":
        case "unpin":
            return { do: what, id: fields.whole("id", 1, Number.MAX_SAFE_INTEGER) };
    }
}

export function parseQuery(value: unknown): Query {
    const fields = new Fields(value);
    const what = fields.oneOf("what", ["window", "messages", "stats"] as const);
    switch (what) {
        case "window":
            return { what, budget: fields.optional("budget", (name) => fields.whole(name, 1, BUDGET_MAX)) };
        case "messages":
            return {
                what,
                after: fields.optional("after", (name) => fields.whole(name, 0, Number.MAX_SAFE_INTEGER)) ?? 0,
                limit: fields.optional("limit", (name) => fields.whole(name, 1, 100)) ?? 100,
            };
        case "stats":
            return { what };
    }
}

/** An object's fields, each of the type that it should have. */
class Fields {
    readonly #fields: Record<string, unknown>;

    constructor(value: unknown) {
        if (typeof value !== "object" || value === null) throw new Error("it is no object");
        this.#fields = value as Record<string, unknown>;
    }
    has(name: string): boolean {
        return Object.hasOwn(this.#fields, name);
    }
    isNull(name: string): boolean {
        return this.#fields[name] === null;
    }
    optional<T>(name: string, read: (name: string) => T): T | undefined {
        return this.has(name) ? read(name) : undefined;
    }
    text(name: string): string {
        const value = this.#fields[name];
        if (typeof value !== "string") throw new Error(`\`${name}\` is a text`);
        return value;
    }
    flag(name: string): boolean {
        const value = this.#fields[name];
        if (typeof value !== "boolean") throw new Error(`\`${name}\` is true or false`);
        return value;
    }
    whole(name: string, min: number, max: number): number {
        const value = this.#fields[name];
        if (typeof value !== "number" || !Number.isInteger(value) || value < min || value > max) {
            throw new Error(`\`${name}\` is a whole number from ${min} to ${max}`);
        }
        return value;
    }
    oneOf<T extends string>(name: string, values: readonly T[]): T {
        const value = this.#fields[name];
        if (!values.includes(value as T)) throw new Error(`\`${name}\` is one of ${values.join(", ")}`);
        return value as T;
    }
}
