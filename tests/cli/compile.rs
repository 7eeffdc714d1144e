//! `compile`: real runs against recorded fakes of the tools.
