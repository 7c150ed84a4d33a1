//! The agent: asks the model, has its tools called, asks people, and goes on with what comes of it.
//!
//! | key | value |
//! |---|---|
//! | `agent` | which model, which tools, which limits |
//! | `turn` | what it is doing |
//!
//! | request, timer, name of a reply | what for |
//! |---|---|
//! | `turn/<turn>/<round>` | what the model is asked |
//! | `call-<turn>-<round>-<nth>` | a tool, and how long a question to a person waits |

use crate::{
    Message, bad,
    conversation::{Call, Conversation, Entry, Role, json_bytes},
    model::{self, CALLS_MAX, Completion, Problem},
};
use serde::{Deserialize, Serialize};
use slotd_guest::{Address, Answer, Context, Error, Rejection, StateView, Value, http, json};
use slotd_guest::{log_warn, serde_json};
use std::time::Duration;

const AGENT: &str = "agent";
const TURN: &str = "turn";

/// What people are asked with, if the agent may.
pub(crate) const ASK_HUMAN: &str = "ask_human";
const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
/// How long a question waits, if nothing else is said, and at most.
const QUESTION_MS: u64 = 7 * DAY_MS;
const TIME_MS_MAX: u64 = 366 * DAY_MS;
/// Tools are in every request, which has 256 KiB.
const TOOLS_MAX: usize = 64;
const TOOLS_BYTES_MAX: u64 = 32 * 1024;
/// slotd keeps at most 1 MiB of an answer, and some servers send 400 bytes a token.
const ANSWER_TOKENS_MAX: u64 = 2_400;
const ROUNDS_MAX: u32 = 50;
/// Messages that wait for the end of a turn.
const QUEUE_MAX: usize = 16;
/// Of a tool's result: the rest of the window is for the conversation.
const RESULT_SHARE: u64 = 4;

/// One attempt at the model. Its tokens come as fast as it writes them.
const TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// All attempts: people wait for it.
const DEADLINE: Duration = Duration::from_secs(20 * 60);
const ATTEMPTS: u32 = 20;

/// A session that does what the model asks for. The arguments are the message's body, so any session is a tool.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tool {
    name: String,
    #[serde(default)]
    description: String,
    /// A JSON schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parameters: Option<Value>,
    /// `service/session`; `{session}` in it is this session's id. `tool/<name>` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to: Option<String>,
}

/// What of an agent can be set.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Agent {
    /// Of chat completions: `https://api.example.com/v1/chat/completions`. The operator allows the host.
    pub url: String,
    pub model: String,
    /// The name of the operator's secret for it.
    pub secret: Option<String>,
    pub tools: Vec<Tool>,
    /// Whether it may ask people, and how long it waits for them.
    pub human: bool,
    pub question_ms: u64,
    /// Requests a turn. The last one offers no tools, so that it ends with an answer.
    pub rounds: u32,
    /// Of one answer.
    pub answer_tokens: u64,
    /// Tokens that the session may use in its life.
    pub tokens_max: Option<u64>,
    /// The session is deleted when nothing has happened for so long and nothing is under way.
    pub quiet_ms: Option<u64>,
}

impl Default for Agent {
    fn default() -> Self {
        Self {
            url: String::new(),
            model: String::new(),
            secret: None,
            tools: Vec::new(),
            human: true,
            question_ms: QUESTION_MS,
            rounds: 8,
            answer_tokens: 1_024,
            tokens_max: None,
            quiet_ms: None,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Phase {
    /// Nothing is under way.
    #[default]
    Idle,
    /// The model is asked.
    Thinking,
    /// Tools and people are asked.
    Calling,
    /// The turn has ended without an answer. `retry` asks again.
    Failed,
}

/// A call whose result has not come.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Open {
    call: String,
    /// What a person is asked. None: it is a tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    question: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Queued {
    content: String,
    tokens: Option<u64>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Turn {
    phase: Phase,
    /// Turns so far: the number of this one.
    turn: u64,
    /// Requests of it so far.
    round: u32,
    open: Vec<Open>,
    queue: Vec<Queued>,
    /// Tokens that the session has used.
    spent: u64,
}

impl Turn {
    fn request(&self) -> String {
        format!("turn/{}/{}", self.turn, self.round)
    }
    fn is_busy(&self) -> bool {
        matches!(self.phase, Phase::Thinking | Phase::Calling)
    }
}

/// The session's agent while a message is handled.
pub(crate) struct Run<'a> {
    cx: &'a mut Context,
    conversation: Conversation,
    agent: Agent,
    turn: Turn,
}

impl<'a> Run<'a> {
    pub(crate) fn load(cx: &'a mut Context) -> Result<Self, Rejection> {
        let state = cx.state();
        let conversation = Conversation::load(&state)?;
        let agent = state.get(AGENT)?.unwrap_or_default();
        let turn = state.get(TURN)?.unwrap_or_default();
        Ok(Self { cx, conversation, agent, turn })
    }

    /// Keeps it all, and puts off when the session expires.
    pub(crate) fn save(self) -> Result<(), Rejection> {
        let Self { cx, conversation, agent, turn } = self;
        let mut state = cx.state();
        conversation.save(&mut state)?;
        if turn.turn > 0 {
            state.set(TURN, &turn)?;
        }
        match agent.quiet_ms {
            // What is under way has an end of its own, and then there is a message.
            Some(_) if turn.is_busy() => cx.keep(),
            Some(quiet) => cx.expire_after(Duration::from_millis(quiet))?,
            None => {}
        }
        Ok(())
    }

    pub(crate) fn conversation(&mut self) -> (&mut Conversation, &mut Context) {
        (&mut self.conversation, self.cx)
    }

    pub(crate) fn configure(&mut self, change: Change) -> Result<(), Rejection> {
        if change.is_empty() {
            return Ok(());
        }
        let quiet = self.agent.quiet_ms;
        change.apply(&mut self.agent)?;
        if quiet.is_some() && self.agent.quiet_ms.is_none() {
            self.cx.keep();
        }
        Ok(self.cx.state().set(AGENT, &self.agent)?)
    }

    /// Somebody says something. While a turn is under way it waits; where a question is open, it is the answer.
    pub(crate) fn ask(&mut self, content: String, tokens: Option<u64>) -> Result<Value, Rejection> {
        if self.turn.phase == Phase::Calling
            && let Some(open) = self.turn.open.iter().find(|open| open.question.is_some())
        {
            let call = open.call.clone();
            return self.reply(&call, &content);
        }
        self.ready()?;
        let entry = self.said(&content, tokens);
        self.conversation.check(Some(&entry))?;
        if self.turn.is_busy() {
            let waiting = json_bytes(&self.turn.queue) + json_bytes(&content);
            if self.turn.queue.len() == QUEUE_MAX || waiting > crate::conversation::WINDOW_BYTES_MAX
            {
                let text = "Too many messages wait for the end of this turn.";
                return Err(Rejection::new("busy", text).retriable());
            }
            self.turn.queue.push(Queued { content, tokens });
            return Ok(json!({ "turn": self.turn.turn, "queued": self.turn.queue.len() }));
        }
        let id = self.append(entry)?;
        self.begin()?;
        Ok(json!({ "id": id, "turn": self.turn.turn, "request": self.turn.request() }))
    }

    fn said(&self, content: &str, tokens: Option<u64>) -> Entry {
        let mut entry = Entry::new(Role::User, content, self.cx.time_ms());
        entry.tokens = tokens.unwrap_or(entry.tokens);
        entry
    }

    /// Whether it may ask the model.
    fn ready(&self) -> Result<(), Rejection> {
        if self.agent.url.is_empty() || self.agent.model.is_empty() {
            let text = "Configure `url` and `model` first.";
            return Err(Rejection::new("not-configured", text));
        }
        if self.is_spent() {
            let max = self.agent.tokens_max.unwrap_or_default();
            let text = format!("The session has used its {max} tokens.");
            return Err(Rejection::new("spent", text));
        }
        Ok(())
    }

    fn is_spent(&self) -> bool {
        self.agent.tokens_max.is_some_and(|max| self.turn.spent >= max)
    }

    /// Appends what is there to stay, and says so. It has been made to fit.
    fn append(&mut self, entry: Entry) -> Result<u64, Rejection> {
        let is_streamed = entry.role == Role::Assistant;
        let mut state = self.cx.state();
        let entry = self.conversation.append(&mut state, entry, false)?;
        let Entry { id, role, tokens, content, call, .. } = &entry;
        let mut event = json!({ "id": id, "role": role, "tokens": tokens });
        if is_streamed {
            event["request"] = json!(self.turn.request());
        } else {
            event["content"] = json!(content);
        }
        if let Some(call) = call {
            event["call"] = json!(call);
        }
        self.cx.emit("appended", &event)?;
        crate::tell_left(self.cx, &self.conversation.fit()?)?;
        Ok(entry.id)
    }

    fn begin(&mut self) -> Result<(), Rejection> {
        self.turn.turn += 1;
        self.turn.round = 0;
        self.think()
    }

    /// Asks the model, with the window as it is.
    fn think(&mut self) -> Result<(), Rejection> {
        if self.is_spent() {
            let text = "The session has used the tokens that it may.";
            return self.fail(Problem::new("spent", text));
        }
        self.turn.round += 1;
        self.turn.phase = Phase::Thinking;
        let Agent { url, model, secret, answer_tokens, .. } = &self.agent;
        let window = self.conversation.in_window()?;
        let messages = model::messages(&self.conversation.config.system, &window);
        let mut body = json!({
            "model": model,
            "messages": messages,
            "max_tokens": answer_tokens,
            "stream": true,
            "stream_options": { "include_usage": true },
        });
        // The last one of a turn has to answer.
        let tools = self.tools();
        if self.turn.round < self.agent.rounds && !tools.is_empty() {
            body["tools"] = tools.into();
        }
        let id = self.turn.request();
        let mut request = self.cx.http().post(url).header("accept", "text/event-stream");
        if let Some(name) = secret {
            request = request.header("authorization", format!("Bearer {}", http::secret(name)));
        }
        // As data, not as joined text: calls of tools, the reason of the end and the count of tokens are there, too, so that one
        // request does for all.
        request
            .json(&body)
            .timeout(TIMEOUT)
            .deadline(DEADLINE)
            .attempts(ATTEMPTS)
            .stream("delta", http::Form::Data)
            .send(&id)?;
        let (turn, round) = (self.turn.turn, self.turn.round);
        let event = json!({ "turn": turn, "round": round, "request": id });
        Ok(self.cx.emit("thinking", &event)?)
    }

    fn tools(&self) -> Vec<Value> {
        let tool = |name: &str, description: &str, parameters: &Value| {
            let function =
                json!({ "name": name, "description": description, "parameters": parameters });
            json!({ "type": "function", "function": function })
        };
        let any = json!({ "type": "object" });
        let tools = self.agent.tools.iter();
        let mut tools: Vec<_> = tools
            .map(|it| tool(&it.name, &it.description, it.parameters.as_ref().unwrap_or(&any)))
            .collect();
        if self.agent.human {
            let description = "Asks the person whom you help. The answer may take days.";
            let question = json!({ "question": { "type": "string" } });
            let parameters =
                json!({ "type": "object", "properties": question, "required": ["question"] });
            tools.push(tool(ASK_HUMAN, description, &parameters));
        }
        tools
    }

    /// What came of a request to the model.
    pub(crate) fn answered(&mut self, answer: &http::Answer) -> Result<(), Rejection> {
        if self.turn.phase != Phase::Thinking || answer.id != self.turn.request() {
            log_warn!(self.cx, "nobody waits for the answer of {}", answer.id);
            return Ok(());
        }
        let read = match &answer.outcome {
            Ok(response) if response.is_success() => model::completion(&answer.text()),
            Ok(response) => Err(Problem::of_status(response.status, &answer.text())),
            Err(failure) => Err(Problem::new(failure.code.clone(), failure.reason.clone())),
        };
        match read {
            Ok(completion) => self.completed(completion),
            Err(problem) => self.fail(problem),
        }
    }

    fn completed(&mut self, completion: Completion) -> Result<(), Rejection> {
        let Completion { content, calls, finish, tokens } = completion;
        if content.is_empty() && calls.is_empty() {
            return self.fail(Problem::new("empty", "The model has said nothing."));
        }
        let (turn, round) = (self.turn.turn, self.turn.round);
        let calls = model::with_ids(calls, turn, round);
        let asked = self.conversation.used();
        let content = self.conversation.shortened(&content, u64::MAX)?;
        let mut entry = Entry::new(Role::Assistant, content, self.cx.time_ms());
        entry.tokens += calls.iter().map(|call| call.arguments.len() as u64 / 4 + 8).sum::<u64>();
        entry.calls.clone_from(&calls);
        let tokens = tokens.unwrap_or(asked + entry.tokens);
        self.turn.spent = self.turn.spent.saturating_add(tokens);
        if self.conversation.check(Some(&entry)).is_err() {
            let text = "What the model asks for does not fit into the budget.";
            return self.fail(Problem::new("over-budget", text));
        }
        let id = self.append(entry)?;
        if calls.is_empty() {
            let spent = self.turn.spent;
            let event = json!({ "turn": turn, "id": id, "finish": finish, "tokens": tokens, "spent": spent });
            self.cx.emit("answered", &event)?;
            self.turn.phase = Phase::Idle;
            return self.next();
        }
        self.turn.phase = Phase::Calling;
        let (calls, too_many) = calls.split_at(calls.len().min(CALLS_MAX));
        for call in calls {
            if let Err(why) = self.call(call)? {
                self.result(&call.id, &format!("error: {why}"))?;
            }
        }
        for call in too_many {
            self.result(&call.id, "error: too many calls at once")?;
        }
        self.go_on()
    }

    /// Has a tool called, or a person asked. Else: why not, for the model.
    fn call(&mut self, call: &Call) -> Result<Result<(), String>, Rejection> {
        let arguments = match call.arguments.trim() {
            "" => json!({}),
            text => match serde_json::from_str::<Value>(text) {
                Ok(arguments) => arguments,
                Err(error) => return Ok(Err(format!("the arguments are no JSON: {error}"))),
            },
        };
        if self.agent.human && call.name == ASK_HUMAN {
            let Some(question) = arguments["question"].as_str() else {
                return Ok(Err("`question` is a text".into()));
            };
            let after = Duration::from_millis(self.agent.question_ms);
            let message = Message::Unanswered { call: call.id.clone() };
            let until_ms = self.cx.timers().after(&call.id, after, &message)?;
            let event = json!({ "call": call.id, "question": question, "until_ms": until_ms });
            self.cx.emit("question", &event)?;
            let question = Some(question.to_owned());
            self.turn.open.push(Open { call: call.id.clone(), question });
            return Ok(Ok(()));
        }
        let Some(tool) = self.agent.tools.iter().find(|tool| tool.name == call.name) else {
            return Ok(Err(format!("there is no tool {}", call.name)));
        };
        let to = tool.address(self.cx.session());
        let sent = self.cx.message_to(&to).reply_as(&call.id).send(&arguments);
        if let Err(Error::Send { why }) = sent {
            return Ok(Err(why));
        }
        sent?;
        let event = json!({ "call": call.id, "name": call.name, "to": to, "arguments": arguments });
        self.cx.emit("calling", &event)?;
        self.turn.open.push(Open { call: call.id.clone(), question: None });
        Ok(Ok(()))
    }

    /// Puts what came of a call into the conversation.
    fn result(&mut self, call: &str, text: &str) -> Result<(), Rejection> {
        let share = self.conversation.config.budget / RESULT_SHARE;
        let text = self.conversation.shortened(text, share)?;
        let mut entry = Entry::new(Role::Tool, text, self.cx.time_ms());
        entry.call = Some(call.to_owned());
        self.append(entry).map(drop)
    }

    /// Asks the model again when all that it has asked for is there.
    fn go_on(&mut self) -> Result<(), Rejection> {
        if self.turn.phase == Phase::Calling && self.turn.open.is_empty() {
            return self.think();
        }
        Ok(())
    }

    /// Begins the next turn with what was said meanwhile.
    fn next(&mut self) -> Result<(), Rejection> {
        if self.turn.queue.is_empty() {
            return Ok(());
        }
        for Queued { content, tokens } in std::mem::take(&mut self.turn.queue) {
            let mut entry = self.said(&content, tokens);
            // It did fit when it was said.
            if self.conversation.check(Some(&entry)).is_err() {
                entry = self.said(&self.conversation.shortened(&content, u64::MAX)?, None);
            }
            self.append(entry)?;
        }
        self.begin()
    }

    fn fail(&mut self, problem: Problem) -> Result<(), Rejection> {
        let Problem { code, reason } = problem;
        self.turn.phase = Phase::Failed;
        let event = json!({ "turn": self.turn.turn, "code": code, "reason": reason });
        Ok(self.cx.emit("failed", &event)?)
    }

    /// What came of a tool.
    pub(crate) fn came(&mut self, answer: &Answer) -> Result<(), Rejection> {
        let text = match &answer.result {
            Ok(reply) => String::from_utf8_lossy(&reply.body).into_owned(),
            Err(refusal) => format!("error: {refusal}"),
        };
        if !self.close_call(&answer.name) {
            // It was cancelled meanwhile, and has a result.
            return Ok(());
        }
        self.result(&answer.name, &text)?;
        self.go_on()
    }

    fn close_call(&mut self, call: &str) -> bool {
        let before = self.turn.open.len();
        self.turn.open.retain(|open| open.call != call);
        self.turn.open.len() < before
    }

    /// A person answers a question.
    pub(crate) fn reply(&mut self, call: &str, content: &str) -> Result<Value, Rejection> {
        let is_open =
            self.turn.open.iter().any(|open| open.call == call && open.question.is_some());
        if !is_open {
            return Err(Rejection::new("no-question", format!("{call} is no open question.")));
        }
        self.close_call(call);
        self.cx.timers().cancel(call);
        self.result(call, content)?;
        self.go_on()?;
        Ok(json!({ "turn": self.turn.turn, "answered": call }))
    }

    /// Nobody has answered in time.
    pub(crate) fn unanswered(&mut self, call: &str) -> Result<(), Rejection> {
        if self.close_call(call) {
            self.result(call, "error: nobody has answered")?;
        }
        self.go_on()
    }

    /// Ends the turn. What tools were told to do they do.
    pub(crate) fn cancel(&mut self) -> Result<Value, Rejection> {
        let turn = self.turn.turn;
        if !self.turn.is_busy() {
            return Ok(json!({ "turn": turn, "cancelled": false }));
        }
        let request = self.turn.request();
        self.cx.http().cancel(&request);
        for open in std::mem::take(&mut self.turn.open) {
            self.cx.timers().cancel(&open.call);
            self.result(&open.call, "error: cancelled")?;
        }
        self.turn.phase = Phase::Idle;
        self.cx.emit("cancelled", &json!({ "turn": turn }))?;
        self.next()?;
        Ok(json!({ "turn": turn, "cancelled": true }))
    }

    /// Asks the model again after a failure.
    pub(crate) fn retry(&mut self) -> Result<Value, Rejection> {
        if self.turn.phase != Phase::Failed {
            return Err(Rejection::new("not-failed", "There is nothing to ask again."));
        }
        self.ready()?;
        self.turn.queue.clear();
        self.begin()?;
        Ok(json!({ "turn": self.turn.turn, "request": self.turn.request() }))
    }

    /// Ends the conversation: it can still be read.
    pub(crate) fn close(&mut self) -> Result<Value, Rejection> {
        self.turn.phase = Phase::Idle;
        self.turn.open.clear();
        self.turn.queue.clear();
        self.cx.emit("closed", &json!({ "turn": self.turn.turn }))?;
        self.cx.close();
        Ok(json!({ "closed": true }))
    }

    /// A message of the application's own, between a call and its result, would be one that models refuse.
    pub(crate) fn check_idle(&self) -> Result<(), Rejection> {
        if self.turn.is_busy() {
            let text = "The agent is at work: say it with `ask`, or `cancel` first.";
            return Err(Rejection::new("busy", text).retriable());
        }
        Ok(())
    }
}

impl Tool {
    fn address(&self, session: &str) -> String {
        match &self.to {
            Some(to) => to.replace("{session}", session),
            None => format!("tool/{}", self.name),
        }
    }
}

/// What the agent is doing, for a query.
pub(crate) fn view(state: &StateView) -> Result<Value, Error> {
    let agent: Agent = state.get(AGENT)?.unwrap_or_default();
    let turn: Turn = state.get(TURN)?.unwrap_or_default();
    Ok(json!({
        "phase": turn.phase,
        "turn": turn.turn,
        "round": turn.round,
        "open": turn.open,
        "queued": turn.queue.len(),
        "spent": turn.spent,
        "agent": agent,
    }))
}

/// A change of the agent's settings; what is not given stays.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Change {
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(default, deserialize_with = "crate::given", skip_serializing_if = "Option::is_none")]
    secret: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tools: Option<Vec<Tool>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    human: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    question_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rounds: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    answer_tokens: Option<u64>,
    #[serde(default, deserialize_with = "crate::given", skip_serializing_if = "Option::is_none")]
    tokens_max: Option<Option<u64>>,
    #[serde(default, deserialize_with = "crate::given", skip_serializing_if = "Option::is_none")]
    quiet_ms: Option<Option<u64>>,
}

impl Change {
    fn is_empty(&self) -> bool {
        let Self { url, model, secret, tools, human, question_ms, rounds, .. } = self;
        let Self { answer_tokens, tokens_max, quiet_ms, .. } = self;
        let texts = url.is_none() && model.is_none() && secret.is_none();
        let limits = rounds.is_none() && answer_tokens.is_none() && tokens_max.is_none();
        let times = question_ms.is_none() && quiet_ms.is_none();
        texts && limits && times && tools.is_none() && human.is_none()
    }

    fn apply(self, agent: &mut Agent) -> Result<(), Rejection> {
        let within = |name: &str, value: u64, max: u64| match value {
            value if (1..=max).contains(&value) => Ok(value),
            _ => Err(bad(format!("`{name}` is a whole number from 1 to {max}"))),
        };
        if let Some(url) = self.url {
            agent.url = url;
        }
        if let Some(model) = self.model {
            agent.model = model;
        }
        if let Some(secret) = self.secret {
            agent.secret = secret;
        }
        if let Some(tools) = self.tools {
            check_tools(&tools)?;
            agent.tools = tools;
        }
        agent.human = self.human.unwrap_or(agent.human);
        if let Some(ms) = self.question_ms {
            agent.question_ms = within("question_ms", ms, TIME_MS_MAX)?;
        }
        if let Some(rounds) = self.rounds {
            within("rounds", rounds.into(), ROUNDS_MAX.into())?;
            agent.rounds = rounds;
        }
        if let Some(tokens) = self.answer_tokens {
            agent.answer_tokens = within("answer_tokens", tokens, ANSWER_TOKENS_MAX)?;
        }
        if let Some(max) = self.tokens_max {
            agent.tokens_max = max;
        }
        if let Some(ms) = self.quiet_ms {
            agent.quiet_ms = ms.map(|ms| within("quiet_ms", ms, TIME_MS_MAX)).transpose()?;
        }
        let texts = json_bytes(&(&agent.url, &agent.model, &agent.secret));
        if texts > 8 * 1024 {
            return Err(bad("`url`, `model` and `secret` are too long"));
        }
        Ok(())
    }
}

fn check_tools(tools: &[Tool]) -> Result<(), Rejection> {
    if tools.len() > TOOLS_MAX || json_bytes(tools) > TOOLS_BYTES_MAX {
        let most = format!("{TOOLS_MAX} tools and {TOOLS_BYTES_MAX} bytes of them at most");
        return Err(bad(most));
    }
    for (nth, tool) in tools.iter().enumerate() {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        if !(1..=64).contains(&tool.name.len()) || !tool.name.bytes().all(is_name) {
            return Err(bad("a tool's name has 1 to 64 letters, digits, `_` and `-`"));
        }
        if tool.name == ASK_HUMAN || tools[..nth].iter().any(|other| other.name == tool.name) {
            return Err(bad(format!("the tool {} is there already", tool.name)));
        }
        if let Err(error) = tool.address("session").parse::<Address>() {
            return Err(bad(error.to_string()));
        }
    }
    Ok(())
}
