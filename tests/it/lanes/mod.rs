//! Lanes: one bad receiver costs the others nothing.

mod breaker;
mod breaker_model;
mod bulkhead;
mod gate;
mod pace;
mod prompt;
mod recovery;
