import { Rejection } from "./error.js";
import { Reply } from "./reply.js";

/**
 * Sends a message to another session.
 * @param {string | { service: string, session: string }} to
 */
export function send(host, to, value, { replyAs } = {}) {
    const address = toAddress(to);
    if (replyAs != null) checkText(replyAs, "the name of a reply");
    const { contentType, body } = value instanceof Reply ? value : Reply.json(value);
    const wrong = host.send(address, contentType.toWellFormed(), body, replyAs ?? undefined);
    if (wrong !== undefined) throw bad(wrong);
}

/** `{ service, session }` of what names a session. A session's id may have a `/`, a service's name has none. */
export function toAddress(to) {
    if (typeof to === "string") {
        checkText(to, "an address");
        const at = to.indexOf("/");
        if (at === -1) throw bad(`${JSON.stringify(to)} is no address of a session: write "service/session"`);
        return { service: to.slice(0, at), session: to.slice(at + 1) };
    }
    const { service, session } = to ?? {};
    if (typeof service !== "string" || typeof session !== "string") {
        throw new TypeError('an address is "service/session", or an object with `service` and `session`');
    }
    checkText(service, "a service's name");
    checkText(session, "a session's id");
    return { service, session };
}

function bad(why) {
    return new Rejection("bad-send", why);
}

function checkText(value, what) {
    if (typeof value !== "string") throw new TypeError(`${what} is a string, not ${value === null ? "null" : typeof value}`);
    if (!value.isWellFormed()) throw new TypeError(`${what} with half a surrogate pair is no text`);
}
