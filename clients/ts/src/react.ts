// Hooks for React. `import { useSession, useEvents, useStatus } from "slotd-client/react"`.

import { useEffect, useMemo, useRef, useState, useSyncExternalStore } from "react";
import type { Client, Session, SessionOptions, SlotdEvent, SlotdError, Status, Types } from "./index.js";

/** A session as long as the component is there, and its names stay. Hand it to the components below. */
export function useSession<T extends Types = any>(
  client: Client,
  service: string,
  id: string,
  options?: SessionOptions,
): Session<T> {
  const after = options?.after;
  return useMemo(
    () => client.session<T>(service, id, after === undefined ? {} : { after }),
    // Where it begins counts once: a position that is saved meanwhile makes no other session.
    [client, service, id],
  );
}

/** The events of a kind (`*`: of all) since the component is there, in order: the last `limit`, 1,000 if it does not say. */
export function useEvents<B = any>(session: Session, kind: string = "*", { limit = 1_000 }: { limit?: number } = {}): readonly SlotdEvent<B>[] {
  const [shown, show] = useState<{ of: unknown; events: readonly SlotdEvent<B>[] }>({ of: undefined, events: [] });
  const bound = useRef(limit);
  bound.current = limit;
  useEffect(() => {
    // What comes in one go is shown in one go.
    let came: SlotdEvent<B>[] = [];
    let timer: ReturnType<typeof setTimeout> | undefined;
    let isReset = true;
    const flush = () => {
      timer = undefined;
      const [more, reset] = [came, isReset];
      [came, isReset] = [[], false];
      show((before) => {
        const kept = reset || before.of !== session ? [] : before.events;
        return { of: session, events: [...kept, ...more].slice(-bound.current) };
      });
    };
    const soon = () => {
      timer ??= setTimeout(flush);
    };
    const off = session.on(kind, (event) => {
      came.push(event as SlotdEvent<B>);
      soon();
    });
    const offDeleted = session.onDeleted(() => {
      came = [];
      isReset = true;
      soon();
    });
    return () => {
      off();
      offDeleted();
      // What the listener was given would not come again.
      clearTimeout(timer);
      if (came.length > 0) flush();
    };
  }, [session, kind]);
  return shown.of === session ? shown.events : NONE;
}

const NONE: readonly SlotdEvent<any>[] = [];

/** The connection's status, and why it is not open. */
export function useStatus(session: Session): { status: Status; reason: SlotdError | undefined } {
  const status = useSyncExternalStore(
    (changed) => session.onStatus(changed),
    () => session.status,
    () => "closed" as const,
  );
  return { status, reason: session.reason };
}
