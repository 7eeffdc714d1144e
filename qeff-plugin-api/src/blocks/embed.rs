//! Token and position embeddings.

use crate::build::{Scope, Value};
use crate::graph::{Embedding, Op};

/// Rows of the table `weight` of this scope.
pub fn embed<'g>(at: Scope<'g>, ids: Value<'g>, how: Embedding) -> Value<'g> {
    let table = at.weight(at.tensor("weight"));
    at.node(Op::Embedding(how), &[Some(ids), Some(table)])
}
