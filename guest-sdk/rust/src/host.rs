//! What stands behind a context: the imports of the component, or the harness of a native test.

#[cfg(not(target_arch = "wasm32"))]
pub(crate) use crate::test::host::Host;

#[cfg(target_arch = "wasm32")]
pub(crate) use imports::Host;

#[cfg(target_arch = "wasm32")]
mod imports {
    use crate::{
        Level, Timer, When,
        timers::{Firing, millis},
        wasm::bindings::slotd::slot::{effects, log, session, state, timers, types},
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

    fn event(kind: &str, content_type: &str, body: Vec<u8>) -> types::Event {
        types::Event { kind: kind.to_owned(), content_type: content_type.to_owned(), body }
    }
}
