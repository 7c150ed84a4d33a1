export { Context, MigrateContext, QueryContext } from "./context.js";
export { Rejection } from "./error.js";
export { handler, rawHandler } from "./handler.js";
export { Http, HttpBody, HttpView, secret } from "./http.js";
export { parse as parseJson, stringify as stringifyJson } from "./json.js";
export { Reply } from "./reply.js";
export { State, StateView } from "./state.js";
export { Timer, Timers, TimersView } from "./timers.js";
