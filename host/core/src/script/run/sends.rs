//! Messages to other sessions: what becomes of them is the script's to say.

use crate::{
    effects::{Change, Effect, rows::Name, send::Content},
    script::Sent,
    slot::session::Session,
};
use anyhow::anyhow;

/// What a message has sent, in order. It leaves the session's outbox: nobody would ever take it to where it is to
/// go, and a long script would fill it.
pub(super) fn take(session: &mut Session, changes: &[Change]) -> anyhow::Result<Vec<Sent>> {
    let mut sent = Vec::new();
    for change in changes {
        let Some(name @ Name::Outgoing(_)) = Name::of_row(&change.row) else { continue };
        let Some(value) = &change.value else { continue };
        let effect = Effect::decode(&name, value);
        let effect = effect.map_err(|why| anyhow!("a message to another session: {why}"))?;
        session.change_effects(|effects| effects.change(name, None))?;
        let Effect::Outgoing(outgoing) = effect else { continue };
        let reply_as = match &outgoing.content {
            Content::Message { reply } => reply.clone(),
            Content::Reply(_) => None,
        };
        sent.push(Sent {
            to: outgoing.to.clone(),
            reply_as,
            content_type: outgoing.content_type.clone(),
            body: outgoing.body.clone(),
        });
    }
    Ok(sent)
}
