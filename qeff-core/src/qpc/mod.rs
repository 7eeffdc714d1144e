//! Compiled programs (QPCs), read without a device.
//!
//! ```text
//! programqpc.bin ─► container ─► networkdesc.bin ─► interface
//!                      └─► slice ─► container ─► …        one for each device of several
//! ```
//!
//! | module | knows | does not know |
//! |---|---|---|
//! | [`container`] | segments by name | what is in them |
//! | `messages` | the two descriptors, field by field | which of them matter |
//! | [`interface`] | bindings, the shapes that calls may have, states | where they come from |
//!
//! A QPC may come from a stranger: every number in it is checked before it is used, and nothing is allocated by a length
//! that the file does not hold.

pub mod container;
pub mod interface;
mod messages;

use prost::Message as _;

use self::container::{Container, ContainerError};
pub use self::interface::{Binding, Direction, Elem, Interface, InterfaceError, State};
use self::messages::{IoDesc, NetworkDescriptor};

/// Longest descriptor that is read; those of large programs have some hundred kilobytes.
const MOST_DESCRIPTOR: usize = 16 << 20;
/// Most devices that one program is spread over.
const MOST_SLICES: usize = 256;
/// Segment of a program for several devices that says how they are connected.
const SEVERAL_DEVICES: &str = "mdp_meta_info";
/// What the name of a program for one of several devices holds, before its number.
const SLICE: &str = "_slice";

/// Why a file is no QPC that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QpcError {
    /// Not a container.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// One of the devices' containers.
    #[error("{slice}: {error}")]
    Slice {
        /// Its segment.
        slice: String,
        /// What is wrong.
        error: Box<QpcError>,
    },
    /// A segment that every program has.
    #[error("there is no segment {segment}; found {found}")]
    Missing {
        /// The segment.
        segment: &'static str,
        /// The segments that there are.
        found: String,
    },
    /// A descriptor that cannot be decoded.
    #[error("{segment}: expected a descriptor, found {why}")]
    Descriptor {
        /// The segment.
        segment: &'static str,
        /// What is wrong.
        why: String,
    },
    /// A descriptor that contradicts itself.
    #[error("{segment}: {error}")]
    Interface {
        /// The segment.
        segment: &'static str,
        /// What is wrong.
        error: InterfaceError,
    },
    /// Devices whose numbers have gaps.
    #[error("expected the slices of devices 0 to {last}, found {found}")]
    Slices {
        /// Number of the last device.
        last: usize,
        /// Names of the slices.
        found: String,
    },
}

/// A segment, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its name.
    pub name: String,
    /// Its length.
    pub bytes: u64,
}

/// What one device executes.
#[derive(Debug, Clone, PartialEq)]
pub struct Slice {
    /// Name of the program.
    pub name: String,
    /// Cores that it takes.
    pub cores: u32,
    /// The batch that it was compiled for, as its descriptor says.
    pub batch: i32,
    /// Version of the descriptor.
    pub version: (u32, u32),
    /// Inputs and outputs.
    pub interface: Interface,
    /// Its segments.
    pub segments: Vec<SegmentInfo>,
}

/// A compiled program.
#[derive(Debug, Clone, PartialEq)]
pub struct Qpc {
    /// One for each device, in the order in which devices are given.
    pub slices: Vec<Slice>,
    /// Length of the file.
    pub bytes: u64,
}

impl Qpc {
    /// Reads a QPC from its bytes, of which only headers and descriptors are looked at.
    ///
    /// # Errors
    /// See [`QpcError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, QpcError> {
        let container = Container::parse(bytes)?;
        let slices =
            if container.segment(SEVERAL_DEVICES).is_some() { several(&container)? } else { vec![one(&container)?] };
        Ok(Qpc { slices, bytes: bytes.len() as u64 })
    }

    /// The slice through which the host talks to the program: the first.
    pub fn interface(&self) -> Option<&Interface> {
        self.slices.first().map(|slice| &slice.interface)
    }

    /// Number of devices.
    pub fn devices(&self) -> usize {
        self.slices.len()
    }

    /// Cores that each device needs.
    pub fn cores(&self) -> u32 {
        self.slices.iter().map(|slice| slice.cores).max().unwrap_or(0)
    }
}

/// The slices of a program for several devices, in order.
fn several(container: &Container<'_>) -> Result<Vec<Slice>, QpcError> {
    let number = |name: &str| -> Option<usize> { name.rsplit_once(SLICE)?.1.parse().ok() };
    let mut found: Vec<_> =
        container.segments().iter().filter_map(|segment| Some((number(segment.name)?, segment))).collect();
    found.sort_by_key(|(number, _)| *number);
    let in_order = found.iter().enumerate().all(|(i, (number, _))| i == *number);
    if found.is_empty() || found.len() > MOST_SLICES || !in_order {
        let names: Vec<_> = found.iter().take(MOST_SLICES).map(|(_, segment)| segment.name).collect();
        let last = found.len().clamp(1, MOST_SLICES) - 1;
        let found = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        return Err(QpcError::Slices { last, found });
    }
    found
        .into_iter()
        .map(|(_, segment)| {
            let of_slice = |error| QpcError::Slice { slice: segment.name.to_owned(), error: Box::new(error) };
            let inner = Container::parse(segment.data).map_err(|error| of_slice(error.into()))?;
            one(&inner).map_err(of_slice)
        })
        .collect()
}

fn one(container: &Container<'_>) -> Result<Slice, QpcError> {
    const SEGMENT: &str = "networkdesc.bin";
    let Some(segment) = container.segment(SEGMENT) else {
        return Err(QpcError::Missing { segment: SEGMENT, found: container.names() });
    };
    if segment.data.len() > MOST_DESCRIPTOR {
        return Err(too_long(SEGMENT, segment.data.len()));
    }
    let network = NetworkDescriptor::decode(segment.data).map_err(|error| not_decoded(SEGMENT, &error))?;
    let interface = Interface::of_network(&network).map_err(|error| QpcError::Interface { segment: SEGMENT, error })?;
    let segments = container.segments().iter();
    let segments = segments.map(|s| SegmentInfo { name: s.name.to_owned(), bytes: s.data.len() as u64 }).collect();
    Ok(Slice {
        name: network.network_name,
        cores: network.num_cores,
        batch: network.batch_size,
        version: (network.major, network.minor),
        interface,
        segments,
    })
}

/// The interface in the descriptor that a runtime hands out for a loaded program (`aicapi.IoDesc`).
///
/// # Errors
/// If it cannot be decoded or contradicts itself.
pub fn io_descriptor(bytes: &[u8]) -> Result<Interface, QpcError> {
    const SEGMENT: &str = "I/O descriptor";
    if bytes.len() > MOST_DESCRIPTOR {
        return Err(too_long(SEGMENT, bytes.len()));
    }
    let descriptor = IoDesc::decode(bytes).map_err(|error| not_decoded(SEGMENT, &error))?;
    Interface::of_descriptor(&descriptor).map_err(|error| QpcError::Interface { segment: SEGMENT, error })
}

fn too_long(segment: &'static str, length: usize) -> QpcError {
    QpcError::Descriptor { segment, why: format!("{length} bytes; at most {MOST_DESCRIPTOR} are read") }
}

fn not_decoded(segment: &'static str, error: &prost::DecodeError) -> QpcError {
    QpcError::Descriptor { segment, why: format!("bytes that are none ({error})") }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
