//! What an author says of a plugin for its simulation: JSON lines, described in docs/plugins-sim.md.

use super::{
    line::{Body, Given, Message},
    schema::Schema,
};
use crate::{
    limits,
    names::{ServiceName, SessionKey},
    script::{self, Call, Holds, TIME_MS_DEFAULT},
};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// What a simulation is made of.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// The component's own service.
    pub service: ServiceName,
    /// Services that it is deployed as, too: what is sent to them is delivered.
    pub services: BTreeSet<ServiceName>,
    pub sources: Vec<Source>,
    /// Messages of scripts, in order: some runs keep it.
    pub stories: Vec<Vec<(SessionKey, Message)>>,
    pub answers: Vec<Answers>,
    pub invariants: Vec<Invariant>,
}

/// Where messages of clients come from.
#[derive(Clone, Debug)]
pub struct Source {
    pub sessions: Vec<SessionKey>,
    /// Some of them may be nobody.
    pub senders: Vec<Option<String>>,
    pub makes: Makes,
}

#[derive(Clone, Debug)]
pub enum Makes {
    Schema(Box<Schema>),
    /// These, as they are or varied.
    Samples(Vec<Message>),
}

/// What comes of requests over HTTP, or of messages to services that are not simulated.
#[derive(Clone, Debug)]
pub struct Answers {
    pub of: AnswersOf,
    pub with: Vec<Given>,
}

#[derive(Clone, Debug)]
pub enum AnswersOf {
    /// By the id and the URL: with `*` for anything.
    Request { id: String, url: String },
    /// By `service/session`.
    Send { to: String },
}

/// What a query must answer.
#[derive(Clone, Debug)]
pub struct Invariant {
    /// As it stands in the file.
    pub name: String,
    pub query: Body,
    /// Of which sessions: `service/session`, or of any service.
    pub of: Vec<String>,
    pub holds: Holds,
    /// A query that the handler rejects is no fault.
    pub or_rejected: bool,
    /// After each step, or when nothing is under way any more.
    pub is_final: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    services: Option<Vec<String>>,
    messages: Option<Value>,
    to: Option<Vec<String>>,
    senders: Option<Vec<Option<String>>>,
    always: Option<Asked>,
    finally: Option<Asked>,
    of: Option<Vec<String>>,
    holds: Option<Holds>,
    #[serde(default)]
    or_rejected: bool,
    answer: Option<AnswerOf>,
    with: Option<Vec<Map<String, Value>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    #[serde(default)]
    query: Option<Value>,
    query_text: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnswerOf {
    id: Option<String>,
    url: Option<String>,
    to: Option<String>,
}

/// The message schema of a document: a JSON Schema, or what `slotd plugin types` puts into components.
///
/// # Errors
/// It is none, or says what is not known here.
pub fn message_schema(document: &Value) -> Result<Schema, String> {
    let is_types =
        document.get("format").is_some_and(Value::is_u64) && document.get("message").is_some();
    Schema::parse(document, if is_types { "/message" } else { "" })
}

impl Inputs {
    pub fn new(service: ServiceName) -> Self {
        Self {
            services: BTreeSet::from([service.clone()]),
            service,
            sources: Vec::new(),
            stories: Vec::new(),
            answers: Vec::new(),
            invariants: Vec::new(),
        }
    }

    /// Reads a file of rules. `read` gives the text of a file that it names.
    ///
    /// # Errors
    /// The first invalid line, with its number.
    pub fn rules(
        &mut self,
        text: &str,
        read: &dyn Fn(&str) -> Result<String, String>,
    ) -> Result<(), String> {
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with("//") {
                continue;
            }
            self.rule(line, read).map_err(|why| format!("line {}: {why}", index + 1))?;
        }
        Ok(())
    }

    fn rule(
        &mut self,
        text: &str,
        read: &dyn Fn(&str) -> Result<String, String>,
    ) -> Result<(), String> {
        let line: Line = serde_json::from_str(text)
            .map_err(|error| error.to_string().replace(" at line 1 column ", " at column "))?;
        let Line {
            services,
            messages,
            to,
            senders,
            always,
            finally,
            of,
            holds,
            or_rejected,
            answer,
            with,
        } = line;
        let of_messages = to.is_some() || senders.is_some();
        let of_invariant = of.is_some() || holds.is_some() || or_rejected;
        match (services, messages, always, finally, answer) {
            (Some(services), None, None, None, None)
                if !of_messages && !of_invariant && with.is_none() =>
            {
                for name in services {
                    self.services.insert(ServiceName::parse(&name).map_err(|e| e.detail)?);
                }
                Ok(())
            }
            (None, Some(messages), None, None, None) if !of_invariant && with.is_none() => {
                let document = match messages {
                    Value::String(file) => serde_json::from_str(&read(&file)?)
                        .map_err(|error| format!("{file} is not JSON: {error}"))?,
                    schema => schema,
                };
                let sessions = to.ok_or("`messages` need the sessions that they go `to`")?;
                let sessions = sessions.iter().map(|name| self.key(name));
                let sessions = sessions.collect::<Result<Vec<_>, _>>()?;
                if sessions.is_empty() {
                    return Err("`to` names no session".into());
                }
                let senders = senders.filter(|all| !all.is_empty());
                self.sources.push(Source {
                    sessions,
                    senders: senders.unwrap_or_else(default_senders),
                    makes: Makes::Schema(message_schema(&document)?.into()),
                });
                Ok(())
            }
            (None, None, always, finally, None)
                if always.is_some() != finally.is_some() && !of_messages && with.is_none() =>
            {
                let is_final = finally.is_some();
                let asked = always.or(finally);
                let query = match asked.map(|asked| (asked.query, asked.query_text)) {
                    Some((query, None)) => Body::Json(query.unwrap_or_default()),
                    Some((None, Some(text))) => Body::Text(text),
                    _ => return Err("one `query` or `query_text`".into()),
                };
                self.invariants.push(Invariant {
                    name: text.to_owned(),
                    query,
                    of: of.unwrap_or_else(|| vec!["*".into()]),
                    holds: holds.ok_or("say what `holds` of the answer")?,
                    or_rejected,
                    is_final,
                });
                Ok(())
            }
            (None, None, None, None, Some(answer)) if !of_messages && !of_invariant => {
                let AnswerOf { id, url, to } = answer;
                let any = || "*".to_owned();
                let of = match (to, id, url) {
                    (Some(to), None, None) => AnswersOf::Send { to },
                    (None, id, url) => AnswersOf::Request {
                        id: id.unwrap_or_else(any),
                        url: url.unwrap_or_else(any),
                    },
                    _ => return Err("an answer is of a request (`id`, `url`), or of what is sent `to` a session".into()),
                };
                let with = with.filter(|all| !all.is_empty());
                let with = with.ok_or("say `with` what it is answered: a list")?;
                let with = with.into_iter().map(|fields| {
                    let given = Given(fields);
                    check_answer(&of, &given)?;
                    Ok(given)
                });
                let with = with.collect::<Result<_, String>>()?;
                self.answers.push(Answers { of, with });
                Ok(())
            }
            _ => Err("a line has `services`; `messages` with `to`; `always` or `finally` with \
                      `holds`; or `answer` with `with`"
                .into()),
        }
    }

    /// `service/session`, or a session of the component's own service.
    fn key(&self, text: &str) -> Result<SessionKey, String> {
        let of = match text.split_once('/') {
            Some((service, session))
                if self.services.iter().any(|known| known.as_str() == service) =>
            {
                SessionKey::parse(service, session)
            }
            _ => SessionKey::parse(self.service.as_str(), text),
        };
        of.map_err(|error| error.detail.into_owned())
    }

    /// Takes messages and answers of a script as examples.
    ///
    /// # Errors
    /// The first invalid line, with its number.
    pub fn script(&mut self, text: &str) -> Result<(), String> {
        let steps = script::parse(text)?;
        let lines: Vec<&str> = text.lines().collect();
        let mut story = Vec::new();
        for step in steps {
            let line = lines.get(step.line - 1).copied().unwrap_or_default();
            let fields: Map<String, Value> =
                serde_json::from_str(line.trim()).map_err(|error| error.to_string())?;
            let service = step.service.as_deref().unwrap_or(self.service.as_str());
            match &step.call {
                Call::Message { .. } => {
                    let key = SessionKey::parse(service, &step.session);
                    let key = key.map_err(|error| error.detail)?;
                    self.services.insert(key.service.clone());
                    story.push((key, Message::of(&fields)));
                }
                Call::Answer { answered, .. } => {
                    let of = AnswersOf::Send { to: answered.of.to_string() };
                    self.answers.push(Answers { of, with: vec![Given::of(&fields)] });
                }
                Call::Http(answer) => {
                    let of = AnswersOf::Request { id: answer.id.clone(), url: "*".into() };
                    self.answers.push(Answers { of, with: vec![Given::of(&fields)] });
                }
                _ => {}
            }
        }
        if story.is_empty() {
            return Ok(());
        }
        // Of one kind of session, as far as their names tell: messages are varied among the sessions of one service.
        for service in story.iter().map(|(key, _)| &key.service).collect::<BTreeSet<_>>() {
            let of_service = story.iter().filter(|(key, _)| key.service == *service);
            let sessions: BTreeSet<_> = of_service.clone().map(|(key, _)| key.clone()).collect();
            let sessions = sessions.into_iter().take(limits::SIM_SESSIONS_DEFAULT as usize * 2);
            let samples: Vec<_> = of_service.map(|(_, message)| message.clone()).collect();
            self.sources.push(Source {
                sessions: sessions.collect(),
                senders: Vec::new(),
                makes: Makes::Samples(samples),
            });
        }
        self.stories.push(story);
        Ok(())
    }

    /// Makes messages by a schema, for so many sessions.
    pub fn messages(&mut self, schema: Schema, sessions: u32) {
        let sessions = (1..=sessions)
            .filter_map(|n| SessionKey::parse(self.service.as_str(), &format!("s{n}")).ok());
        self.sources.push(Source {
            sessions: sessions.collect(),
            senders: default_senders(),
            makes: Makes::Schema(schema.into()),
        });
    }
}

fn default_senders() -> Vec<Option<String>> {
    ["ann", "bob", "cat"].into_iter().map(|name| Some(name.to_owned())).chain([None]).collect()
}

/// That a script would take it.
fn check_answer(of: &AnswersOf, given: &Given) -> Result<(), String> {
    let mut line = given.0.clone();
    let name = if line.contains_key("fail") { "fail" } else { "answer" };
    line.insert(name.into(), "x".into());
    if let AnswersOf::Send { .. } = of {
        line.insert("from".into(), "a/b".into());
    }
    script::step(1, &Value::from(line).to_string(), &mut { TIME_MS_DEFAULT }).map(drop)
}

/// Whether a text is one that a pattern with `*` stands for.
pub fn is_like(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

impl Invariant {
    pub fn is_of(&self, key: &SessionKey) -> bool {
        let name = key.to_string();
        self.of.iter().any(|of| is_like(of, &name) || is_like(of, key.session.as_str()))
    }
}
