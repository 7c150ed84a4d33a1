import { isRejection, Rejection } from "./error.js";
import { HttpBody } from "./http.js";
import { Reply } from "./reply.js";

const RAW = Symbol("raw");

/** A handler with JSON in and out. Says nothing at run time: it is for the types. */
export function handler(methods) {
    return methods;
}

/** As `handler`, with bytes in and a `Reply` out. */
export function rawHandler(methods) {
    return { [RAW]: true, ...bound(methods) };
}

/** Methods of a class's instance are on its prototype, where a spread does not look. */
function bound(methods) {
    return {
        handle: methods.handle?.bind(methods),
        query: methods.query?.bind(methods),
        migrate: methods.migrate?.bind(methods),
    };
}

/** @returns why `exported` is no handler, if it is none */
export function unfit(exported) {
    const wanted = "export default handler({ handle(cx, message) { .. } })";
    if (typeof exported !== "object" || exported === null) return `it has no default export: ${wanted}`;
    if (typeof exported.handle !== "function") return `its default export has no function \`handle\`: ${wanted}`;
    for (const name of ["answer", "httpAnswer", "presence", "query", "migrate", "parseMessage", "parseQuery"]) {
        const type = typeof exported[name];
        if (type !== "function" && type !== "undefined") return `\`${name}\` of its default export is no function`;
    }
    return undefined;
}

/**
 * One call: a reply, or what the handler refused with. Anything else that is thrown goes on to
 * the caller.
 */
export function callHandle(handler, cx, body) {
    return settle(() => {
        if (handler[RAW]) return checked("handle", handler.handle(cx, body));
        // What another service replies is no message of this one's, and a refusal has no body.
        if (cx.origin.kind === "answer") return callAnswer(handler, cx, cx.origin, body);
        if (cx.origin.kind === "http") return callHttpAnswer(handler, cx, cx.origin, body);
        if (cx.origin.kind === "presence") return callPresence(handler, cx, cx.origin);
        const message = validated(handler, "parseMessage", "bad-message", cx.parse(body));
        return json("handle", handler.handle(cx, message));
    });
}

function callAnswer(handler, cx, origin, body) {
    if (handler.answer === undefined) throw new Rejection("no-answers", "this plugin takes no answers");
    const reply = origin.refusal === undefined ? cx.parse(body) : undefined;
    return json("answer", handler.answer(cx, origin, reply));
}

function callHttpAnswer(handler, cx, origin, body) {
    if (handler.httpAnswer === undefined) throw new Rejection("no-requests", "this plugin takes no answers of requests");
    return json("httpAnswer", handler.httpAnswer(cx, origin, new HttpBody(cx.contentType, body)));
}

function callPresence(handler, cx, { present }) {
    if (handler.presence === undefined) throw new Rejection("no-presence", "this plugin does not look at who is subscribed");
    return json("presence", handler.presence(cx, present));
}

export function callQuery(handler, cx, body) {
    return settle(() => {
        if (handler.query === undefined) throw new Rejection("no-queries", "this plugin answers no queries");
        if (handler[RAW]) return checked("query", handler.query(cx, body));
        const query = validated(handler, "parseQuery", "bad-query", cx.parse(body));
        return json("query", handler.query(cx, query));
    });
}

/** @returns {{ refused?: string }} */
export function callMigrate(handler, cx, from) {
    if (handler.migrate === undefined) return {};
    let answer;
    try {
        answer = handler.migrate(cx, from);
    } catch (thrown) {
        if (isRejection(thrown)) return { refused: `${thrown.message} (${thrown.code})` };
        if (typeof thrown === "string") return { refused: thrown };
        throw thrown;
    }
    if (isRejection(answer)) return { refused: `${answer.message} (${answer.code})` };
    if (typeof answer === "string") return { refused: answer };
    refusePromise("migrate", answer);
    return {};
}

function settle(call) {
    try {
        return { reply: call() };
    } catch (thrown) {
        if (!isRejection(thrown)) throw thrown;
        return { rejected: thrown };
    }
}

function validated(handler, parser, code, value) {
    if (handler[parser] === undefined) return value;
    try {
        return handler[parser](value);
    } catch (error) {
        if (isRejection(error)) throw error;
        const what = code.slice("bad-".length);
        throw new Rejection(code, cut(`the ${what} is not understood: ${error?.message ?? error}`));
    }
}

/** A validator may say a lot; a rejection's message has 4,096 bytes. */
function cut(text) {
    return text.length > 1000 ? `${text.slice(0, 1000)}..` : text;
}

function json(name, answer) {
    refusePromise(name, answer);
    if (isRejection(answer)) throw answer;
    return answer instanceof Reply ? answer : Reply.json(answer);
}

function checked(name, answer) {
    refusePromise(name, answer);
    if (isRejection(answer)) throw answer;
    if (answer instanceof Reply) return answer;
    if (typeof answer !== "object" || answer === null) {
        throw new TypeError(`\`${name}\` of a raw handler gives a Reply, not ${answer === null ? "null" : typeof answer}`);
    }
    return new Reply(answer.contentType, answer.body);
}

function refusePromise(name, answer) {
    if (typeof answer?.then === "function") {
        throw new TypeError(`\`${name}\` gave a Promise: a handler computes its answer at once, without async and await`);
    }
}
