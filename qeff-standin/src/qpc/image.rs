//! What a QPC holds: on one card the segments themselves, on several a container with a QPC for each card in it.

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::MARKER;
use super::container::{self, Segment};
use super::network::Network;

/// Name of the segment that says a QPC is for several cards. What the real one holds is not known.
const SEVERAL: &str = "mdp_meta_info";

/// A program for one or several cards.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// Its interface.
    pub network: Network,
    /// How many cards it takes.
    pub cards: usize,
    /// What it computes; `None` in a QPC that the stand-in did not write.
    pub marker: Option<Marker>,
}

/// Our segment: what the program computes, and what it was compiled with.
#[derive(Debug, Clone, PartialEq)]
pub struct Marker {
    /// All but the model.
    pub facts: Facts,
    /// The ONNX file.
    pub model: Vec<u8>,
}

/// What the marker says beside the model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Arguments of the compiler, without paths.
    pub options: Vec<String>,
    /// The sizes of each specialization, in the order of the rows.
    pub specializations: Vec<Vec<(String, u64)>>,
    /// Input and output of the graph behind each binding, with how it is stored.
    pub ports: Vec<PortFact>,
    /// Pairs of bindings, input and output, that are a retained state.
    pub retained: Vec<(usize, usize)>,
    /// Files of weights.
    pub external: Vec<External>,
}

/// One binding, as the graph knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortFact {
    /// Name in the graph; sub-functions leave another than the binding's.
    pub name: String,
    /// ONNX's number for its type.
    pub elem: i32,
    /// Whether its numbers are stored as MXINT8.
    pub mxint8: bool,
}

/// A file of weights that the model refers to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct External {
    /// Name by which the model refers to it.
    pub location: String,
    /// Where it is; empty if its bytes are in the QPC, behind the model.
    pub path: String,
    /// Its length.
    pub size: u64,
    /// SHA-256 in hexadecimal digits.
    pub sha256: String,
}

impl Image {
    /// The file.
    pub fn write(&self, embedded: &[u8]) -> Vec<u8> {
        let marker = self.marker.as_ref().map(|marker| marker.encode(embedded));
        let whole = |network: &Network, marker: Option<&[u8]>| {
            let network = network.encode();
            let mut segments = vec![
                Segment { name: "constantsdesc.bin", bytes: &[0; 24] },
                Segment { name: "network.elf", bytes: b"\x7fELFsim" },
                Segment { name: "networkdesc.bin", bytes: &network },
            ];
            segments.extend(marker.map(|bytes| Segment { name: MARKER, bytes }));
            container::write(&segments)
        };
        if self.cards == 1 {
            return whole(&self.network, marker.as_deref());
        }
        // All that users see of a program is in the first slice; the others have no interface.
        let other = Network { bindings: vec![], rows: vec![], ..self.network.clone() };
        let slices: Vec<(String, Vec<u8>)> = (0..self.cards)
            .map(|i| {
                let first = i == 0;
                let network = if first { &self.network } else { &other };
                (format!("QAicGraph_slice{i:02}"), whole(network, marker.as_deref().filter(|_| first)))
            })
            .collect();
        let several = format!("{{\"devices\":{}}}", self.cards);
        let mut segments = vec![Segment { name: SEVERAL, bytes: several.as_bytes() }];
        segments.extend(slices.iter().map(|(name, bytes)| Segment { name, bytes }));
        container::write(&segments)
    }

    /// Reads a file; behind it the bytes of embedded files of weights.
    ///
    /// # Errors
    /// If it is no QPC, or lacks a segment.
    pub fn read(file: &[u8]) -> Result<(Self, Vec<u8>)> {
        let segments = container::read(file)?;
        if !segments.iter().any(|segment| segment.name == SEVERAL) {
            return one(&segments);
        }
        let slices: Vec<_> = segments.iter().filter(|segment| segment.name.starts_with("QAicGraph_slice")).collect();
        let first = slices.first().context("a QPC for several cards has no slice")?;
        let (image, embedded) = one(&container::read(first.bytes)?)?;
        Ok((Image { cards: slices.len(), ..image }, embedded))
    }
}

fn one(segments: &[Segment<'_>]) -> Result<(Image, Vec<u8>)> {
    let find = |name: &str| segments.iter().find(|segment| segment.name == name).map(|segment| segment.bytes);
    for name in ["constantsdesc.bin", "network.elf"] {
        find(name).with_context(|| format!("the QPC has no segment {name}"))?;
    }
    let network = Network::decode(find("networkdesc.bin").context("the QPC has no segment networkdesc.bin")?)?;
    let (marker, embedded) = match find(MARKER).map(Marker::decode).transpose()? {
        Some((marker, embedded)) => (Some(marker), embedded),
        None => (None, vec![]),
    };
    Ok((Image { network, cards: 1, marker }, embedded))
}

impl Marker {
    /// Length of the facts, the facts, length of the model, the model, and files of weights one behind the other.
    fn encode(&self, embedded: &[u8]) -> Vec<u8> {
        let facts = serde_json::to_vec(&self.facts).unwrap_or_default();
        let mut bytes = vec![];
        for piece in [&facts, &self.model] {
            bytes.extend((piece.len() as u64).to_le_bytes());
            bytes.extend(piece);
        }
        bytes.extend(embedded);
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<(Self, Vec<u8>)> {
        let (facts, rest) = piece(bytes)?;
        let (model, rest) = piece(rest)?;
        let facts: Facts = serde_json::from_slice(facts).with_context(|| MARKER.to_owned())?;
        let embedded: u64 = facts.external.iter().filter(|file| file.path.is_empty()).map(|file| file.size).sum();
        if rest.len() as u64 != embedded {
            bail!("{MARKER}: the files of weights in it have another length than it says");
        }
        Ok((Marker { facts, model: model.to_vec() }, rest.to_vec()))
    }
}

fn piece(bytes: &[u8]) -> Result<(&[u8], &[u8])> {
    let split = bytes.split_at_checked(8).and_then(|(length, rest)| {
        let length = u64::from_le_bytes(length.try_into().ok()?);
        rest.split_at_checked(usize::try_from(length).ok()?)
    });
    split.with_context(|| format!("{MARKER} is cut short"))
}
