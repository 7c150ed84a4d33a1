//! What stands behind a context: the imports of the component, or the harness of a native test.

#[cfg(not(target_arch = "wasm32"))]
pub(crate) use crate::test::host::Host;

#[cfg(target_arch = "wasm32")]
pub(crate) use imports::Host;

#[cfg(target_arch = "wasm32")]
mod imports {
    use crate::{
        Level,
        wasm::bindings::slotd::slot::{effects, log, session, state, types},
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
        pub fn log(&self, level: Level, message: &str) {
            log::write(level.into(), message);
        }
    }

    fn event(kind: &str, content_type: &str, body: Vec<u8>) -> types::Event {
        types::Event { kind: kind.to_owned(), content_type: content_type.to_owned(), body }
    }
}
