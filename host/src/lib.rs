//! qeff host.
