//! What stands behind a context: the imports of the component, or the harness of a native test.

#[cfg(not(target_arch = "wasm32"))]
pub(crate) use crate::test::host::Host;

#[cfg(target_arch = "wasm32")]
pub(crate) use imports::Host;

#[cfg(target_arch = "wasm32")]
mod imports {
    use crate::{
        Address, Client, Level, Rejection, Timer, When,
        http::{Answered, Failure, Form, Parts, Response},
        sends::Arrival,
        timers::{Firing, millis},
        wasm::bindings::slotd::slot::{
            client, effects, http, log, sends, session, state, timers, types,
        },
    };

    #[derive(Clone)]
    pub(crate) struct Host;

    impl Host {
        pub fn get(&self, key: &str) -> Option<Vec<u8>> {
            state::get(key)
        }
        pub fn set(&self, key: &str, value: &[u8]) {
            state::set(key, value);
        }
        pub fn delete(&self, key: &str) {
            state::delete(key);
        }
        pub fn scan(
            &self,
            prefix: &str,
            after: Option<&str>,
            limit: u32,
        ) -> Vec<(String, Vec<u8>)> {
            state::scan(prefix, after, limit)
        }
        pub fn emit(&self, kind: &str, content_type: &str, body: Vec<u8>) {
            effects::emit(&event(kind, content_type, body));
        }
        pub fn notify(&self, kind: &str, content_type: &str, body: Vec<u8>) {
            session::notify(&event(kind, content_type, body));
        }
        pub fn expire(&self, at: Option<u64>) -> Result<(), String> {
            session::expire(at)
        }
        pub fn schedule(
            &self,
            name: &str,
            when: When,
            content_type: &str,
            body: Vec<u8>,
        ) -> Result<u64, String> {
            let when = match when {
                When::At(time_ms) => timers::Moment::At(time_ms),
                When::After(delay) => timers::Moment::After(millis(delay)),
                When::Every(period) => timers::Moment::Every(millis(period)),
                When::Cron { expression, zone } => {
                    timers::Moment::Cron(timers::Cron { expression, zone })
                }
            };
            timers::schedule(name, &when, content_type, &body)
        }
        pub fn cancel(&self, name: &str) -> bool {
            timers::cancel(name)
        }
        pub fn timer(&self, name: &str) -> Option<Timer> {
            timers::get(name).map(Into::into)
        }
        pub fn timers(&self, after: Option<&str>, limit: u32) -> Vec<Timer> {
            timers::list(after, limit).into_iter().map(Into::into).collect()
        }
        pub fn firing(&self) -> Option<Firing> {
            timers::current().map(|timers::Firing { due_ms, missed, attempt }| Firing {
                due_ms,
                missed,
                attempt,
            })
        }
        pub fn send(
            &self,
            to: &Address,
            content_type: &str,
            body: Vec<u8>,
            reply_as: Option<&str>,
        ) -> Result<(), String> {
            let Address { service, session } = to.clone();
            sends::send(&sends::Address { service, session }, content_type, &body, reply_as)
        }
        pub fn arrival(&self) -> Option<Arrival> {
            Some(match sends::current()? {
                sends::Arrival::Message(sends::Delivery { sender, attempt, reply_wanted }) => {
                    Arrival::Message { sender: sender.into(), attempt, reply_wanted }
                }
                sends::Arrival::Answer(sends::Answer { name, sender, refusal, attempt }) => {
                    let (sender, refusal) = (sender.into(), refusal.map(Into::into));
                    Arrival::Answer { name, sender, attempt, refusal }
                }
            })
        }
        pub fn request(&self, id: &str, parts: Parts) -> Result<(), String> {
            let Parts { method, url, headers, body, options } = parts;
            let stream = options.stream.map(|(kind, form)| {
                let form = match form {
                    Form::Text => http::StreamForm::Text,
                    Form::Data => http::StreamForm::Data,
                    Form::Joined(path) => http::StreamForm::Joined(path),
                };
                http::Streaming { kind, form }
            });
            let options = http::Options {
                timeout_ms: options.timeout_ms,
                deadline_ms: options.deadline_ms,
                attempts: options.attempts,
                redirects: options.redirects,
                answer_bytes: options.answer_bytes,
                keep_headers: options.keep_headers,
                stream,
            };
            http::request(id, &http::Details { method, url, headers, body, options })
        }
        pub fn cancel_request(&self, id: &str) -> bool {
            http::cancel(id)
        }
        pub fn open_requests(&self) -> Vec<String> {
            http::open()
        }
        pub fn http_answer(&self) -> Option<Answered> {
            let http::Answer { id, outcome, attempts, attempt } = http::current()?;
            let outcome = match outcome {
                http::Outcome::Response(response) => Ok(response.into()),
                http::Outcome::Failure(http::Failure { code, reason, response }) => {
                    Err(Failure { code, reason, response: response.map(Into::into) })
                }
            };
            Some(Answered { id, outcome, attempts, attempt })
        }
        pub fn close(&self) {
            session::close();
        }
        pub fn watch_subscribers(&self, wanted: bool) {
            session::watch_subscribers(wanted);
        }
        pub fn presence(&self) -> Option<bool> {
            session::current().map(|presence| presence == session::Presence::Present)
        }
        pub fn client(&self) -> Option<Client> {
            let client::Identity { subject, kind, claims } = client::current()?;
            Some(Client { kind, subject, claims: claims.into_iter().collect() })
        }
        pub fn log(&self, level: Level, message: &str) {
            log::write(level.into(), message);
        }
    }

    impl From<timers::Timer> for Timer {
        fn from(timer: timers::Timer) -> Self {
            let timers::Timer { name, due_ms, content_type, body, failures } = timer;
            Self { name, due_ms, content_type, body, failures }
        }
    }

    impl From<sends::Address> for Address {
        fn from(sends::Address { service, session }: sends::Address) -> Self {
            Self { service, session }
        }
    }

    impl From<http::Response> for Response {
        fn from(http::Response { status, headers }: http::Response) -> Self {
            Self { status, headers }
        }
    }

    impl From<types::Rejection> for Rejection {
        fn from(types::Rejection { code, message, retriable }: types::Rejection) -> Self {
            Self { code: code.into(), message: message.into(), retriable }
        }
    }

    fn event(kind: &str, content_type: &str, body: Vec<u8>) -> types::Event {
        types::Event { kind: kind.to_owned(), content_type: content_type.to_owned(), body }
    }
}
