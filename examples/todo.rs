//! A to-do list: a document, a collection derived from it, and a service for both.
//!
//! Run it with:
//!
//!     cargo run --example todo -- --database :memory:
//!
//! Then, in another terminal:
//!
//!     curl --json '{"title":"water the plants","assignee":"Ann"}' localhost:3000/todos
//!     curl -N localhost:3000/assignee-events

use std::process::ExitCode;

use duality::schemars::{self, JsonSchema};
use duality::{Derived, Document, Key, Service, Settings, ValidationError};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, JsonSchema)]
struct Todo {
    title: String,
    assignee: Option<Key>,
}

impl Document for Todo {
    const NAME: &'static str = "todos";

    fn validate(&self) -> Result<(), ValidationError> {
        if self.title.trim().is_empty() { Err(ValidationError::new("title", "is blank")) } else { Ok(()) }
    }
}

/// The number of to-dos of one assignee.
#[derive(Default, Serialize, Deserialize, JsonSchema)]
struct Assignee {
    todos: u64,
}

impl Derived for Assignee {
    const NAME: &'static str = "assignees";
    type Source = Todo;

    fn key(todo: &Todo) -> Option<Key> {
        todo.assignee.clone()
    }
    fn add(&mut self, _: &Todo) {
        self.todos += 1;
    }
    fn remove(&mut self, _: &Todo) {
        self.todos -= 1;
    }
    fn is_empty(&self) -> bool {
        self.todos == 0
    }
}

fn main() -> ExitCode {
    Service::new().document::<Todo>().derived::<Assignee>().run(Settings::parse())
}
