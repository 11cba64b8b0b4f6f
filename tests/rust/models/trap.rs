//! Traps: states from which what must happen leads to no good end, as when two wait for each other.
//!
//! stateright does not find them. Its `eventually` is about ways that end, and whoever polls goes round in circles, from
//! which there may be a way out or not.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;

use stateright::Model;

/// The way to a trap, if there is one. `choices` says what can happen next, and whether it must.
pub(super) fn trap<M: Model>(
    model: &M,
    choices: impl Fn(&M::State) -> Vec<(M::Action, bool)>,
    is_good: impl Fn(&M::State) -> bool,
) -> Option<Vec<M::Action>>
where
    M::State: Clone + Eq + Hash,
    M::Action: Copy,
{
    let mut found =
        Found { numbers: HashMap::new(), states: Vec::new(), came_from: Vec::new(), before: Vec::new() };
    for state in model.init_states() {
        found.add(state, None);
    }
    let mut next = 0;
    while next < found.states.len() {
        let state = found.states[next].clone();
        for (action, is_due) in choices(&state) {
            let Some(after) = model.next_state(&state, action) else { continue };
            let number = found.add(after, Some((next, action)));
            if is_due {
                found.before[number].push(next);
            }
        }
        next += 1;
    }
    found.trapped(is_good)
}

struct Found<S, A> {
    numbers: HashMap<S, usize>,
    states: Vec<S>,
    came_from: Vec<Option<(usize, A)>>,
    /// From which states each can be reached by what must happen.
    before: Vec<Vec<usize>>,
}

impl<S: Clone + Eq + Hash, A: Copy> Found<S, A> {
    fn add(&mut self, state: S, from: Option<(usize, A)>) -> usize {
        let fresh = self.states.len();
        match self.numbers.entry(state) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(vacant) => {
                self.states.push(vacant.key().clone());
                self.came_from.push(from);
                self.before.push(Vec::new());
                *vacant.insert(fresh)
            }
        }
    }

    fn trapped(self, is_good: impl Fn(&S) -> bool) -> Option<Vec<A>> {
        let mut is_safe: Vec<bool> = self.states.iter().map(is_good).collect();
        let mut todo: Vec<usize> = (0..is_safe.len()).filter(|number| is_safe[*number]).collect();
        while let Some(number) = todo.pop() {
            for from in &self.before[number] {
                if !is_safe[*from] {
                    is_safe[*from] = true;
                    todo.push(*from);
                }
            }
        }
        let mut at = is_safe.iter().position(|is_safe| !is_safe)?;
        let mut way = Vec::new();
        while let Some((from, action)) = self.came_from[at] {
            way.push(action);
            at = from;
        }
        way.reverse();
        Some(way)
    }
}
