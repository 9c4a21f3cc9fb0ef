//! Kills a loaded node again and again and holds what its clients saw against the guarantees.

#[path = "torture/checker.rs"]
mod checker;
#[path = "torture/history.rs"]
mod history;
#[path = "torture/model.rs"]
mod model;
