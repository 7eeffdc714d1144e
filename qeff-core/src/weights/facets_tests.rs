use super::*;
use crate::weights::blocks::{self, CodeBits};
use crate::weights::{Checkpoint, evaluate_to_vec};
use qeff_plugin_api::WeightExpr;

/// Two tensors of three rows: codes with zero points, and codes in an order of their own.
struct Made {
    index: TensorIndex,
}

const PER_ROW: u64 = 3;
const LENGTH: u64 = 16;

impl Made {
    fn new() -> Self {
        let info = || TensorInfo { dtype: DType::F32, shape: vec![3, PER_ROW * LENGTH] };
        Self { index: [("zeros".to_owned(), info()), ("ordered".to_owned(), info())].into_iter().collect() }
    }

    fn code(element: u64) -> u8 {
        (element * 7 % 16) as u8
    }

    fn zero(block: u64) -> u8 {
        (block * 5 % 16) as u8
    }

    fn scale(block: u64) -> f32 {
        0.25 + block as f32
    }
}

impl TensorSource for Made {
    fn index(&self) -> &TensorIndex {
        &self.index
    }

    fn lend(&self, name: &str, _: Range<u64>) -> Result<Cow<'_, [u8]>, SourceError> {
        Err(SourceError::Missing(name.to_owned()))
    }

    fn encoding(&self, name: &str) -> Option<Encoding<'_>> {
        let zero = if name == "zeros" { ZeroPoint::PerBlock } else { ZeroPoint::Constant(8) };
        let layout = BlockLayout { bits: CodeBits::Four, length: LENGTH, zero, ordered: name == "ordered" };
        Some(Encoding { name: "made".into(), blocks: Some(layout) })
    }

    fn read_blocks(&self, _: &str, blocks: Range<u64>, part: BlockPart<'_>) -> Result<(), SourceError> {
        let elements = blocks.start * LENGTH..blocks.end * LENGTH;
        match part {
            BlockPart::Codes(out) => fill(out, elements.map(Self::code)),
            BlockPart::Scales(out) => fill(out, blocks.map(Self::scale)),
            BlockPart::Zeros(out) => fill(out, blocks.map(Self::zero)),
            BlockPart::Order(out) => fill(out, elements.map(|i| (PER_ROW * LENGTH - 1 - i) as u32)),
            BlockPart::Shifts(_) => unreachable!("nothing here has shifts"),
        }
        Ok(())
    }
}

fn fill<T: Copy>(out: &mut [T], items: impl Iterator<Item = T>) {
    let items: Vec<T> = items.collect();
    // Panics unless there are exactly as many as the blocks have.
    out.copy_from_slice(&items);
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

/// All of a facet, as one piece.
fn whole(facets: &Facets<'_>, facet: Facet, tensor: &str) -> Vec<u8> {
    evaluate_to_vec(&WeightExpr::tensor(facet.of(tensor)), facet.dtype(), facets).unwrap()
}

#[test]
fn a_facet_may_be_lent_in_any_pieces() {
    let made = Made::new();
    let facets = Facets::new(&made);
    let mut seen = 0;
    for tensor in ["zeros", "ordered"] {
        for facet in Facet::ALL {
            let Some(info) = facets.index().get(&facet.of(tensor)) else { continue };
            let (count, all) = (info.shape.iter().product::<u64>(), whole(&facets, facet, tensor));
            let size = facet.dtype().size();
            for start in 0..=count {
                for end in [start, start + 1, start + 5, start + 9, count] {
                    let found = facets.lend(&facet.of(tensor), start..end);
                    match end <= count {
                        true => assert_eq!(found.unwrap(), &all[start as usize * size..end as usize * size]),
                        false => assert!(matches!(found, Err(SourceError::OutOfRange { .. }))),
                    }
                }
            }
            seen += 1;
        }
    }
    assert_eq!(seen, 4 + 5);
}

#[test]
fn zero_points_are_packed_by_row() {
    let made = Made::new();
    let facets = Facets::new(&made);
    assert_eq!(facets.index().get(&Facet::Zeros.of("zeros")).unwrap().shape, [3, 2]);
    let row = |row: u64| {
        let zero = |at: u64| Made::zero(row * PER_ROW + at);
        [zero(0) | zero(1) << 4, zero(2)]
    };
    assert_eq!(whole(&facets, Facet::Zeros, "zeros"), (0..3).flat_map(row).collect::<Vec<_>>());
}

#[test]
fn zero_points_become_offsets_from_the_center() {
    let made = Made::new();
    let offsets = floats(&whole(&Facets::new(&made), Facet::Offsets, "zeros"));
    let expected = (0..9).map(|block| Made::scale(block) * (8.0 - f32::from(Made::zero(block))));
    assert_eq!(offsets, expected.collect::<Vec<_>>());
}

#[test]
fn an_order_has_one_axis() {
    let made = Made::new();
    let facets = Facets::new(&made);
    assert_eq!(facets.index().get(&Facet::Order.of("ordered")).unwrap().shape, [48]);
    let order = whole(&facets, Facet::Order, "ordered");
    assert_eq!(order[..16], [47i64.to_le_bytes(), 46i64.to_le_bytes()].concat());
}

#[test]
fn columns_go_back_to_their_places() {
    let made = Made::new();
    let facets = Facets::new(&made);
    // The order is the reverse, so the codes of a row are, too, and the blocks count down.
    let bits = whole(&facets, Facet::ColumnBits, "ordered");
    let row = PER_ROW * LENGTH;
    let code = |column: u64| Made::code(2 * row - 1 - column);
    assert_eq!(bits[row as usize / 2..][..2], [code(0) | code(1) << 4, code(2) | code(3) << 4]);
    let groups = whole(&facets, Facet::Groups, "ordered");
    let groups: Vec<i32> = groups.as_chunks::<4>().0.iter().map(|&b| i32::from_le_bytes(b)).collect();
    assert_eq!(groups, (0..3).rev().flat_map(|group| [group; 16]).collect::<Vec<_>>());
}

#[test]
fn a_taken_name_or_a_row_of_broken_blocks_leaves_no_facets() {
    let mut made = Made::new();
    let info = TensorInfo { dtype: DType::F32, shape: vec![2, LENGTH + 1] };
    made.index.insert("broken", info.clone());
    made.index.insert(Facet::Scales.of("zeros"), info);
    let facets = Facets::new(&made);
    assert_eq!(facets.blocks().layouts().map(|(tensor, _)| tensor).collect::<Vec<_>>(), ["ordered"]);
    assert_eq!(facets.index().len(), made.index.len() + 5);
}

/// The parts of every type of GGUF, put together again as an engine would, are its dense numbers.
#[test]
fn facets_of_every_type_are_the_dense_numbers_bit_for_bit() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/gguf/types");
    let stored = Checkpoint::open_gguf(format!("{dir}/types.gguf")).unwrap();
    let facets = Facets::new(&stored);
    assert_eq!(facets.blocks().layouts().count(), 14);
    for (tensor, layout) in facets.blocks().layouts() {
        let low = whole(&facets, Facet::LowBits, tensor);
        let high = match layout.bits {
            CodeBits::Four => vec![0; low.len()],
            CodeBits::Eight => whole(&facets, Facet::HighBits, tensor),
        };
        let code = |(low, high): (&u8, &u8)| [low & 15 | high << 4, low >> 4 | high & 0xf0];
        let codes: Vec<u8> = low.iter().zip(&high).flat_map(code).collect();
        let scales = floats(&whole(&facets, Facet::Scales, tensor));
        let mut shifts = vec![0.0; scales.len()];
        if layout.zero == ZeroPoint::Shift {
            stored.read_blocks(tensor, 0..scales.len() as u64, BlockPart::Shifts(&mut shifts)).unwrap();
        }
        let mut numbers = vec![0.0; codes.len()];
        blocks::decode(layout, &codes, &scales, &shifts, &mut numbers);
        let dense = stored.lend(tensor, 0..numbers.len() as u64).unwrap();
        assert!(bytemuck::cast_slice::<f32, u8>(&numbers) == &*dense, "{tensor}");

        if !layout.is_centered() {
            // Measured from the center instead, they are the same up to rounding.
            let offsets = floats(&whole(&facets, Facet::Offsets, tensor));
            let center = f32::from(layout.bits.center());
            for (at, (number, code)) in numbers.iter().zip(&codes).enumerate() {
                let block = at / layout.length as usize;
                let found = scales[block] * (f32::from(*code) - center) + offsets[block];
                let size = (scales[block] * 256.0).abs() + offsets[block].abs();
                assert!((found - number).abs() <= 1e-6 * size, "{tensor} {at}: {found}, expected {number}");
            }
        }
    }
}

#[test]
fn blocks_are_refused_where_there_are_none() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/gguf/types");
    let stored = Checkpoint::open_gguf(format!("{dir}/types.gguf")).unwrap();
    let mut scales = [0.0];
    let plain = stored.read_blocks("F32", 0..1, BlockPart::Scales(&mut scales));
    assert!(matches!(plain, Err(SourceError::NoSuchPart { .. })), "{plain:?}");
    let far = stored.read_blocks("Q4_0", 1 << 40..(1 << 40) + 1, BlockPart::Scales(&mut scales));
    assert!(matches!(far, Err(SourceError::OutOfRange { .. })), "{far:?}");
    let endless = stored.read_blocks("Q4_0", u64::MAX - 1..u64::MAX, BlockPart::Scales(&mut scales));
    assert!(matches!(endless, Err(SourceError::OutOfRange { .. })), "{endless:?}");
    let shifts = stored.read_blocks("Q4_0", 0..1, BlockPart::Shifts(&mut scales));
    assert!(matches!(shifts, Err(SourceError::NoSuchPart { .. })), "{shifts:?}");
}
