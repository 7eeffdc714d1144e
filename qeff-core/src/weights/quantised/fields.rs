//! Fields that several schemes have.

use qeff_plugin_api::config::{Config, ConfigError};

/// Inputs of a group; `None` if all inputs of an output share a scale, which is written as −1.
pub(super) fn group_size(config: &Config, key: &str) -> Result<Option<u64>, ConfigError> {
    match config.opt_i64(key)? {
        None => Ok(Some(128)),
        Some(-1) => Ok(None),
        Some(size @ 1..=0x7fff_ffff) => Ok(Some(size.unsigned_abs())),
        Some(_) => Err(config.unsupported(key, "a whole number above 0, or -1 for one group")),
    }
}

/// Notes fields as read, with all that is in them, that change no number.
pub(super) fn inert(config: &Config, keys: &[&str]) {
    keys.iter().for_each(|key| config.pass_over(key));
}
