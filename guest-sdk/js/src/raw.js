// For tests of the host itself; no handler needs it.

import { QueryContext } from "./context.js";

/** A query's context with what a query must not do: the host ends such a call with a trap. */
export const forbidden = QueryContext.forbidden;
