//! core

pub mod mapping;
pub mod weights;
