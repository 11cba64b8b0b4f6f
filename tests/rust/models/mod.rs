//! Exhaustive models of the protocols: every interleaving of a few participants.

mod marker;
mod queue;
