//! What tests ask a plugin, whichever host asks it.

use std::fmt::Write as _;

use qeff_plugin_api::config::{Config, ConfigError};
use qeff_plugin_api::plugin::{Architecture, PluginError, Request};
use qeff_plugin_api::{DType, TensorInfo, wire};

/// A line with two answers of the architecture of the test plugin `everything`: a description, as the hexadecimal digits of
/// its wire form, and why a config without sense is refused.
pub fn answers(architecture: &dyn Architecture) -> String {
    let ask = |width| bag(width).map_err(PluginError::from).and_then(|request| architecture.describe(&request));
    let said = |width| ask(width).map_or_else(|error| told(&error), |model| hexadecimal(&wire::encode(&model)));
    format!("describes {}; refuses {}", said("3"), said("\"wide\""))
}

/// A table of three columns, and what the config says of its width.
fn bag(width: &str) -> Result<Request, ConfigError> {
    let config = Config::parse(&format!(r#"{{"architectures": ["BagModel"], "width": {width}}}"#))?;
    let table = TensorInfo { dtype: DType::F32, shape: vec![5, 3] };
    Ok(Request { config, tensors: [("table.weight".to_owned(), table)].into_iter().collect() })
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// An error, and what kind of error it crossed as.
fn told(error: &PluginError) -> String {
    match error {
        PluginError::Config(ConfigError { field, .. }) => format!("the config's field {field}: {error}"),
        other => other.to_string(),
    }
}
