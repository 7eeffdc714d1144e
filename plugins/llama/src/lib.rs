//! The llama family.
