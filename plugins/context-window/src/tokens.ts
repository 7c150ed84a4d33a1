/** What a message costs beside its text: role and marks around it. */
const PER_MESSAGE = 4;

/**
 * About how many tokens a text has for a language model: a token is four characters of ASCII, or
 * three bytes of anything else. Within a fifth or so for prose in most languages; who has the
 * model's own tokenizer gives `tokens` with the message.
 */
export function estimate(text: string): number {
    const other = text.replace(/[\x00-\x7f]+/g, "");
    const ascii = text.length - other.length;
    return PER_MESSAGE + Math.ceil(ascii / 4 + new TextEncoder().encode(other).length / 3);
}
