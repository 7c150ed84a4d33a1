import type { AnyState, Context, QueryContext } from "./index.d.ts";

/** A query's context with what a query must not do: the host ends such a call with a trap. */
export function forbidden<S extends object = AnyState>(cx: QueryContext<S>): Context<S>;
