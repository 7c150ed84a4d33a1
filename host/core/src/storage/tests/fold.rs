//! The fold of the log into the state: in whatever pieces it is applied, the result is one.

use super::*;
use crate::log::record::Activate;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Message { name: usize, key: u8, value: Option<u8> },
    Delete { name: usize },
    Activate { generation: u64 },
    Flush,
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..3usize, 0..4u8, proptest::option::of(0..9u8))
            .prop_map(|(name, key, value)| Step::Message { name, key, value }),
        2 => (0..3usize).prop_map(|name| Step::Delete { name }),
        1 => (1..5u64).prop_map(|generation| Step::Activate { generation }),
        3 => Just(Step::Flush),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 1..30)
}

/// Number, values, bodies.
type Session = (u64, BTreeMap<Bytes, Bytes>, Vec<Vec<u8>>);

#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    sessions: BTreeMap<String, Session>,
    next: u64,
    generation: u64,
}

impl Model {
    fn check(&self, dir: &DataDir) {
        let state = dir.state();
        let meta = state.slot(0).unwrap();
        assert_eq!(meta.sessions, self.sessions.len() as u64);
        assert_eq!(meta.next_session, self.next);
        let service = session("x").service;
        let active = meta.active.get(&service).map(|activate| activate.generation);
        assert_eq!(active.unwrap_or_default(), self.generation);
        stored::check(dir, 0);
        let listed = state.sessions(0, &service, "", None, 100).unwrap();
        let names: Vec<_> = listed.iter().map(|(id, _)| id.as_str()).collect();
        assert_eq!(names, self.sessions.keys().collect::<Vec<_>>());
        for ((_, head), (number, values, bodies)) in listed.iter().zip(self.sessions.values()) {
            assert_eq!(head.session_number, *number);
            let got = state.scan(0, *number, b"", None, 100, usize::MAX).unwrap();
            assert_eq!(got.into_iter().collect::<BTreeMap<_, _>>(), *values);
            let history = state.history(0, *number, 0, 1_000, usize::MAX).unwrap();
            let got: Vec<_> = history.iter().map(|entry| entry.body.to_vec()).collect();
            assert_eq!(got, *bodies);
            for entry in &history {
                let remembered = state.remembered(0, *number, entry.id.as_deref().unwrap());
                assert_eq!(remembered.unwrap().unwrap().seq, entry.seq);
            }
        }
    }
}

async fn run(steps: Vec<Step>) {
    let home = scratch();
    let mut dir = open(home.path());
    let mut slot = Slot::start(&dir, 0).await;
    let mut model = Model::default();
    for (i, step) in steps.into_iter().enumerate() {
        match step {
            Step::Message { name, key, value } => {
                let name = ["a", "b", "c"][name];
                let key = Bytes::from(vec![key]);
                let value = value.map(|value| Bytes::from(vec![value]));
                let body = format!("{i}").into_bytes();
                let write = Write { key: key.clone(), value: value.clone() };
                let record = slot.message(&dir, name, &body, vec![write]);
                slot.commit(&dir, vec![record]).await;
                let next = &mut model.next;
                let session = model.sessions.entry(name.to_owned()).or_insert_with(|| {
                    *next += 1;
                    (*next - 1, BTreeMap::new(), Vec::new())
                });
                match value {
                    Some(value) => session.1.insert(key, value),
                    None => session.1.remove(&key),
                };
                session.2.push(body);
            }
            Step::Delete { name } => {
                let name = ["a", "b", "c"][name];
                if let Some(record) = slot.delete(&dir, name) {
                    slot.commit(&dir, vec![record]).await;
                    model.sessions.remove(name);
                }
            }
            Step::Activate { generation } => {
                let service = session("x").service;
                let activate = Activate { service, generation, deployment: 1 };
                slot.commit(&dir, vec![Record::Activate(activate)]).await;
                model.generation = model.generation.max(generation);
            }
            Step::Flush => {
                slot.flush(&dir).await;
                model.check(&dir);
            }
            Step::Restart => {
                drop(dir);
                dir = open(home.path());
                model.check(&dir);
                slot = Slot::start(&dir, 0).await;
            }
        }
    }
    drop(dir);
    model.check(&open(home.path()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// A fold that depends on where it is cut gives another state after a crash than before it.
    #[test]
    fn any_split_of_the_fold_gives_the_same_state(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(steps));
    }
}
