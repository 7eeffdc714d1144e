//! core

pub mod text;
pub mod validate;
