//! Lanes: one bad receiver costs the others nothing.

mod breaker;
mod bulkhead;
mod gate;
mod pace;
mod prompt;
mod recovery;
