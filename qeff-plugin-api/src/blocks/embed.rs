//! Token and position embeddings.

use crate::build::{Scope, Value};
use crate::graph::{Embedding, Op};

/// Rows of the table `weight[rows, width]` of this scope.
pub fn embed<'g>(at: Scope<'g>, ids: Value<'g>, [rows, width]: [u64; 2], how: Embedding) -> Value<'g> {
    let table = at.weight_of_shape(at.tensor("weight"), &[rows, width]);
    at.node(Op::Embedding(how), &[Some(ids), Some(table)])
}
