// Who a client was shown to be.

/** As a handler has it, from what the host says. */
export function toClient(identity) {
    if (identity == null) return undefined;
    const { kind, subject, claims } = identity;
    return { kind, subject: subject ?? undefined, claims: Object.fromEntries(claims) };
}
