/**
 * A refusal: thrown by a handler it becomes the sender's error (422, with this code) and changes
 * nothing. Anything else that is thrown is a fault of the handler: it is logged and ends the call
 * with a trap.
 */
export class Rejection extends Error {
    /**
     * @param {string} code kebab-case, for programs
     * @param {string} message one sentence, for people
     * @param {{ retriable?: boolean }} [options] whether the same message may succeed later
     */
    constructor(code, message, { retriable = false } = {}) {
        super(String(message));
        this.name = "Rejection";
        this.code = String(code);
        this.retriable = Boolean(retriable);
    }
}

export function isRejection(thrown) {
    return thrown instanceof Rejection;
}
