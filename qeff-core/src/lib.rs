//! core

pub mod validate;
