//! What host and worker say to each other. Both are one program, so nothing here has to last; but once a plugin runs, what
//! the worker says may be the plugin's.

use prost::{Message, Oneof};
use qeff_plugin_api::abi::Call;
use qeff_plugin_api::config::ConfigError;
use qeff_plugin_api::plugin::PluginError;

use super::channel::Failure;

/// The first message to a worker; with it go the image and the arena's two files.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Start {
    #[prost(string, tag = "1")]
    pub(super) symbol: String,
    /// Address space in bytes.
    #[prost(uint64, tag = "2")]
    pub(super) memory: u64,
    /// Processor time until the first request.
    #[prost(uint64, tag = "3")]
    pub(super) cpu_seconds: u64,
    /// Whether to go on where the system cannot confine it.
    #[prost(bool, tag = "4")]
    pub(super) allow_unsandboxed: bool,
}

/// Said before anything of the plugin is executed.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Confined {
    /// Why it is not confined; empty if it is.
    #[prost(string, tag = "1")]
    pub(super) why: String,
}

/// A call; what a kind has no use for is empty.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Request {
    #[prost(uint32, tag = "1")]
    pub(super) kind: u32,
    #[prost(uint32, tag = "2")]
    pub(super) number: u32,
    #[prost(string, tag = "3")]
    pub(super) text: String,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) bytes: Vec<u8>,
    /// Of a file; of the bytes in the arena.
    #[prost(uint64, tag = "5")]
    pub(super) length: u64,
    /// Of the result in the arena.
    #[prost(uint64, tag = "6")]
    pub(super) out: u64,
}

/// Numbers of the kinds of calls.
pub(super) mod kind {
    pub(in super::super) const RECOGNISE: u32 = 1;
    pub(in super::super) const DESCRIBE: u32 = 2;
    pub(in super::super) const POOL: u32 = 3;
    pub(in super::super) const REWRITE: u32 = 4;
    pub(in super::super) const PROBE: u32 = 5;
    pub(in super::super) const INDEX: u32 = 6;
    pub(in super::super) const DECODE: u32 = 7;
}

impl Request {
    /// A call whose bytes go with it.
    pub(super) fn new(number: u32, call: &Call<'_>) -> Self {
        let request = |kind, text: &str, bytes: &[u8], length| Request {
            kind,
            number,
            text: text.to_owned(),
            bytes: bytes.to_owned(),
            length,
            out: 0,
        };
        match call {
            Call::Recognise { config } => request(kind::RECOGNISE, config, &[], 0),
            Call::Describe { request: bytes } => request(kind::DESCRIBE, "", bytes, 0),
            Call::Pool { request: bytes } => request(kind::POOL, "", bytes, 0),
            Call::Rewrite { request: bytes } => request(kind::REWRITE, "", bytes, 0),
            Call::Probe { head, file_name } => request(kind::PROBE, file_name, head, 0),
            Call::Index { head, length } => request(kind::INDEX, "", head, *length),
            Call::Decode { encoding, bytes, out } => Request::in_arena(number, encoding, bytes.len(), out.len()),
        }
    }

    /// A call whose bytes are in the arena.
    pub(super) fn in_arena(number: u32, encoding: &str, length: usize, out: usize) -> Self {
        let (length, out) = (length as u64, out as u64);
        Request { kind: kind::DECODE, number, text: encoding.to_owned(), bytes: vec![], length, out }
    }
}

/// The answer to a request; the first one is to the image: its manifest.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Reply {
    #[prost(oneof = "Outcome", tags = "1, 2")]
    pub(super) outcome: Option<Outcome>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Outcome {
    #[prost(bytes, tag = "1")]
    Answer(Vec<u8>),
    #[prost(message, tag = "2")]
    Fault(Fault),
}

/// An error of the plugin.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Fault {
    #[prost(string, tag = "1")]
    message: String,
    /// Field, expected, found, if config.json is at fault.
    #[prost(string, repeated, tag = "2")]
    config: Vec<String>,
    /// Where it panicked, if it did.
    #[prost(string, optional, tag = "3")]
    panicked_at: Option<String>,
}

/// Longest text of an error that is passed on.
const MAX_TEXT: usize = 16 << 10;

fn shortened(mut text: String) -> String {
    if let Some((at, _)) = text.char_indices().find(|(at, _)| *at > MAX_TEXT) {
        text.truncate(at);
        text.push('…');
    }
    text
}

impl Reply {
    pub(super) fn new(answer: Result<Vec<u8>, PluginError>) -> Self {
        let outcome = match answer {
            Ok(bytes) => Outcome::Answer(bytes),
            Err(PluginError::Config(ConfigError { field, expected, found })) => {
                let config = [field, expected, found].map(shortened).into();
                Outcome::Fault(Fault { config, ..Fault::default() })
            }
            Err(PluginError::Panic { message, location }) => {
                let panicked_at = Some(shortened(location));
                Outcome::Fault(Fault { message: shortened(message), panicked_at, config: vec![] })
            }
            Err(other) => Outcome::Fault(Fault { message: shortened(other.to_string()), ..Fault::default() }),
        };
        Reply { outcome: Some(outcome) }
    }

    /// What the plugin answered, or why this is no answer.
    pub(super) fn into_answer(self) -> Result<Result<Vec<u8>, PluginError>, Failure> {
        match self.outcome {
            None => Err(Failure::Garbage("a message without content".into())),
            Some(Outcome::Answer(bytes)) => Ok(Ok(bytes)),
            Some(Outcome::Fault(Fault { message, config, panicked_at })) => {
                let message = shortened(message);
                Ok(Err(match (<[String; 3]>::try_from(config), panicked_at) {
                    (Ok(parts), _) => {
                        let [field, expected, found] = parts.map(shortened);
                        PluginError::Config(ConfigError { field, expected, found })
                    }
                    (Err(_), Some(place)) => PluginError::Panic { message, location: shortened(place) },
                    (Err(_), None) => PluginError::Other(message),
                }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crossed(answer: Result<Vec<u8>, PluginError>) -> Result<Vec<u8>, PluginError> {
        let bytes = Reply::new(answer).encode_to_vec();
        Reply::decode(bytes.as_slice()).unwrap().into_answer().unwrap()
    }

    #[test]
    fn answers_and_errors_cross_unchanged() {
        assert_eq!(crossed(Ok(vec![])), Ok(vec![]));
        assert_eq!(crossed(Ok(vec![1, 2])), Ok(vec![1, 2]));
        let config = ConfigError { field: "a".into(), expected: "b".into(), found: "c".into() };
        for error in [
            PluginError::Config(config),
            PluginError::Panic { message: "no".into(), location: "x.rs:1".into() },
            PluginError::Other("words".into()),
        ] {
            assert_eq!(crossed(Err(error.clone())), Err(error));
        }
    }

    #[test]
    fn what_is_no_reply_is_told() {
        assert!(matches!(Reply::default().into_answer(), Err(Failure::Garbage(_))));
        assert!(Reply::decode(&[0xff; 9][..]).is_err());
        let long = crossed(Err(PluginError::Other("é".repeat(1 << 16)))).unwrap_err().to_string();
        assert!(long.len() < MAX_TEXT + 8, "{}", long.len());
    }
}
