//! core

pub mod mapping;
