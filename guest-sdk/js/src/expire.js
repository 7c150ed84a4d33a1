import { Rejection } from "./error.js";
import { MS_MAX, toMs, toTime } from "./timers.js";

/**
 * Has the session expire.
 * @param {number} timeMs the message's time
 * @param {{ after: string | number } | { at: Date | number }} when
 */
export function expire(host, timeMs, when) {
    const { after, at } = when ?? {};
    if ((after === undefined) === (at === undefined)) {
        throw new TypeError('a session expires `after` a while or `at` a time: { after: "10m" }');
    }
    const ms = at === undefined ? timeMs + toMs(after) : toTime(at, "the time at which a session expires");
    const wrong = host.expire(Math.min(ms, MS_MAX));
    if (wrong !== undefined) throw new Rejection("bad-moment", wrong);
}
