//! Exhaustive models of the protocols: every interleaving of a few participants.

mod admission;
mod deferred;
mod expiry;
mod lease;
mod marker;
mod queue;
mod removal;
mod strict;
mod trap;
