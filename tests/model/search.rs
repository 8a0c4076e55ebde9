//! Every state that can be reached, nearest first.
//!
//! The crate `stateright` does this, too. It is not used, because it brings second versions of crates that the tree has
//! (hashbrown, rand) and a web server. What is needed of it are the lines below.

use std::collections::HashSet;
use std::hash::Hash;
use std::rc::Rc;

/// What can happen, and what must always be true.
pub(crate) trait Model {
    type State: Eq + Hash;
    type Step: ToString;

    fn start(&self) -> Self::State;

    /// All that can happen next, and what results from it.
    fn next(&self, state: &Self::State) -> Vec<(Self::Step, Self::State)>;

    /// The property that a state violates. `is_end`: nothing can happen any more.
    fn violated(&self, state: &Self::State, is_end: bool) -> Option<&'static str>;
}

pub(crate) struct Found {
    /// The number of different states.
    pub(crate) states: usize,
    /// The number of steps to the farthest of them.
    pub(crate) depth: usize,
    /// One of the shortest ways to a state that violates a property. The search ends there.
    pub(crate) counterexample: Option<Counterexample>,
}

pub(crate) struct Counterexample {
    pub(crate) violated: &'static str,
    pub(crate) steps: Vec<String>,
}

/// A state with the one before it and the step between them.
struct Visited<M: Model> {
    state: Rc<M::State>,
    by: Option<(usize, M::Step)>,
    depth: usize,
}

pub(crate) fn search<M: Model>(model: &M) -> Found {
    let start = Rc::new(model.start());
    let mut known = HashSet::from([Rc::clone(&start)]);
    let mut visited: Vec<Visited<M>> = vec![Visited { state: start, by: None, depth: 0 }];
    let mut next = 0;
    while let Some(Visited { state, depth, .. }) = visited.get(next) {
        let (state, depth) = (Rc::clone(state), *depth);
        let successors = model.next(&state);
        if let Some(violated) = model.violated(&state, successors.is_empty()) {
            let counterexample = Some(Counterexample { violated, steps: way_to(&visited, next) });
            return Found { states: visited.len(), depth, counterexample };
        }
        for (step, successor) in successors {
            let state = Rc::new(successor);
            if known.insert(Rc::clone(&state)) {
                visited.push(Visited { state, by: Some((next, step)), depth: depth + 1 });
            }
        }
        next += 1;
    }
    Found { states: visited.len(), depth: visited.last().map_or(0, |last| last.depth), counterexample: None }
}

/// The steps from the start to a state.
fn way_to<M: Model>(visited: &[Visited<M>], mut at: usize) -> Vec<String> {
    let mut steps = Vec::new();
    while let Some((before, step)) = &visited[at].by {
        steps.push(step.to_string());
        at = *before;
    }
    steps.reverse();
    steps
}
