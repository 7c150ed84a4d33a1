//! How a model is explored, whatever it is of.

use stateright::{Checker, HasDiscoveries, Model};
use std::{collections::BTreeSet, fmt::Debug, hash::Hash, time::Instant};

/// What the checker asks of a state.
pub trait State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static {}
impl<T: Clone + Debug + Hash + PartialEq + Send + Sync + 'static> State for T {}

/// What the checker asks of a step.
pub trait Action: Clone + Debug + PartialEq + Send + Sync + 'static {}
impl<T: Clone + Debug + PartialEq + Send + Sync + 'static> Action for T {}

/// Explores every run of a model.
pub fn explore<M>(name: &str, model: M)
where
    M: Model<State: State, Action: Action> + Send + Sync + 'static,
{
    let started = Instant::now();
    let checker = model.checker().threads(2).spawn_bfs().join();
    println!(
        "{name}: {} states, {} steps deep, {:.1} s",
        checker.unique_state_count(),
        checker.max_depth(),
        started.elapsed().as_secs_f64()
    );
    assert!(checker.is_done(), "{name} was not explored to its end");
    checker.assert_properties();
}

/// A model that lacks a guard has a run in which something is broken.
pub fn breaks<M>(guard: impl Debug, model: M, broken: &'static str)
where
    M: Model<State: State, Action: Action> + Send + Sync + 'static,
{
    let found = HasDiscoveries::AllOf(BTreeSet::from([broken]));
    let checker = model.checker().finish_when(found).spawn_bfs().join();
    let found = checker.discovery(broken);
    let steps = found.map(|path| path.into_actions());
    assert!(steps.is_some(), "without {guard:?}, still: {broken}");
    println!("without {guard:?}, not: {broken}: {:?}", steps.unwrap_or_default());
}
