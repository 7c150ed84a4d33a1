// Server-sent events from a stream of bytes.

export interface ServerSent {
  id?: string;
  event: string;
  data: string;
}

/** Calls `take` for each event of the text, whose pieces may end anywhere. */
export function parser(take: (event: ServerSent) => void): (text: string) => void {
  let rest = "";
  let sent: ServerSent = { event: "", data: "" };
  return (text) => {
    rest += text;
    // A carriage return at the end may be half of a line's end.
    const whole = rest.endsWith("\r") ? rest.length - 1 : rest.length;
    const lines = rest.slice(0, whole).split(/\r\n|\r|\n/);
    rest = (lines.pop() ?? "") + rest.slice(whole);
    for (const line of lines) {
      if (line === "") {
        if (sent.data) take(sent);
        sent = { event: "", data: "" };
        continue;
      }
      const colon = line.indexOf(":");
      const name = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? "" : line.slice(colon + (line[colon + 1] === " " ? 2 : 1));
      if (name === "data") sent.data += sent.data ? `\n${value}` : value;
      else if (name === "id" || name === "event") sent[name] = value;
    }
  };
}
