use proptest::prelude::*;

use super::*;
use crate::weights::eval::tests::Memory;
use crate::weights::{Facet, Facets, evaluate_to_vec};

fn memory(shape: &[u64], numbers: &[f32]) -> Memory {
    let mut memory = Memory::default();
    memory.add("w", DType::F32, shape, bytemuck::cast_slice(numbers).to_vec());
    memory
}

fn schemes() -> impl Iterator<Item = Scheme> {
    [CodeBits::Four, CodeBits::Eight].into_iter().flat_map(|bits| {
        [16, 32, 128]
            .into_iter()
            .flat_map(move |length| [true, false].map(|symmetric| Scheme { bits, length, symmetric }))
    })
}

fn quantised<'s>(source: &'s Memory, expr: &str, scheme: Scheme) -> Quantised<'s> {
    let expr = WeightExpr::parse(expr).unwrap();
    Quantised::new(source, &[QuantisedTensor { name: "q".into(), expr, scheme }]).unwrap()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

fn dense(source: &dyn TensorSource, name: &str) -> Vec<f32> {
    floats(&evaluate_to_vec(&WeightExpr::tensor(name), DType::F32, source).unwrap())
}

proptest! {
    #[test]
    fn every_number_is_within_half_a_step(
        numbers in prop::collection::vec(prop_oneof![-1.0..1.0f32, -1e-3..1e-3f32, Just(0.0), -1e30..1e30f32], 256),
    ) {
        let source = memory(&[2, 128], &numbers);
        for scheme in schemes() {
            let found = dense(&quantised(&source, r#"w"w""#, scheme), "q");
            let blocks = numbers.chunks(scheme.length as usize).zip(found.chunks(scheme.length as usize));
            for (block, found) in blocks {
                let (scale, shift) = scheme.measure(block);
                // The scale of four symmetric bits leaves no code for the largest number of the other sign.
                let clipped = if scheme.symmetric && scheme.bits == CodeBits::Four { 1.0 } else { 0.5 };
                let rounding = 1e-5 * (shift.abs() + scale.abs() * 256.0);
                for (number, found) in block.iter().zip(found) {
                    let error = (number - found).abs();
                    prop_assert!(error <= clipped * scale.abs() + rounding + 1e-36, "{scheme:?}: {number} became {found}");
                }
            }
        }
    }
}

#[test]
fn scales_and_codes_are_those_written_down() {
    let mut block = vec![0.0; 16];
    block[..5].copy_from_slice(&[-4.0, 1.0, 0.25, 4.0, -0.75]);
    let codes = |bits, symmetric| {
        let scheme = Scheme { bits, length: 16, symmetric };
        let mut codes = vec![0; 16];
        scheme.encode(&block, &mut codes);
        (scheme.measure(&block), codes[..6].to_vec())
    };
    // −4 is −8 steps of 0.5; of the two codes beside 0.25 the even one; 4 would be code 16.
    assert_eq!(codes(CodeBits::Four, true), ((0.5, 0.0), vec![0, 10, 8, 15, 6, 8]));
    assert_eq!(codes(CodeBits::Eight, true), ((4.0 / 119.0, 0.0), vec![17, 166, 143, 255, 114, 136]));
    let (scale, shift) = codes(CodeBits::Four, false).0;
    assert!((scale - 8.0 / 15.0).abs() < 1e-6 && shift == -4.0);
    assert_eq!(codes(CodeBits::Eight, false).1[..5], [0, 159, 135, 255, 104]);
}

#[test]
fn blocks_without_extent_and_without_meaning() {
    let mut numbers = vec![0.0; 16];
    numbers.extend([3.0; 16]);
    numbers.extend([1e-45; 16]);
    numbers.extend([f32::NAN; 1].iter().chain(&[1.0; 15]));
    numbers.extend([1.0; 15].iter().chain(&[f32::INFINITY; 1]));
    let source = memory(&[5, 16], &numbers);
    for scheme in schemes().filter(|scheme| scheme.length == 16) {
        let found = dense(&quantised(&source, r#"w"w""#, scheme), "q");
        assert!(found[..16].iter().all(|&x| x == 0.0), "{scheme:?}");
        assert!(found[16..32].iter().all(|&x| (x - 3.0).abs() < 0.01), "{scheme:?} {:?}", &found[16..32]);
        assert!(found[32..48].iter().all(|&x| x.abs() < 1e-37), "{scheme:?}");
        assert!(found[48..].iter().all(|x| x.is_nan()), "{scheme:?}");
    }
}

/// Pieces of any size give what the whole gives, and the facets are the dense numbers.
#[test]
fn reads_do_not_depend_on_each_other() {
    let rows = 40;
    let numbers: Vec<f32> = (0..rows * 128).map(|i| ((i * 7919 % 1009) as f32 - 500.0) / 300.0).collect();
    let source = memory(&[128, rows as u64], &numbers);
    for scheme in schemes() {
        let quantised = quantised(&source, r#"w"w".transpose(1, 0).take(0, 1, 40, 3..40)"#, scheme);
        let whole = dense(&quantised, "q");
        assert_eq!(whole.len(), 37 * 128);
        for (start, end) in [(0, 1), (5, 77), (100, 1000), (37 * 128 - 1, 37 * 128), (9, 9)] {
            let found = floats(&quantised.lend("q", start as u64..end as u64).unwrap());
            assert_eq!(found, whole[start..end], "{scheme:?} {start}..{end}");
        }
        let past = quantised.lend("q", 37 * 128..37 * 128 + 1);
        assert!(matches!(past, Err(SourceError::OutOfRange { .. })), "{past:?}");

        let facets = Facets::new(&quantised);
        let kept = facets.blocks().kept(&WeightExpr::tensor("q"), facets.index()).unwrap();
        let scales = floats(&evaluate_to_vec(&kept.facet(Facet::Scales), DType::F32, &facets).unwrap());
        let expected: Vec<f32> =
            whole_numbers(&source).chunks(scheme.length as usize).map(|b| scheme.measure(b).0).collect();
        assert_eq!(scales, expected);
    }
}

/// The rows that the test above quantises.
fn whole_numbers(source: &Memory) -> Vec<f32> {
    let expr = WeightExpr::parse(r#"w"w".transpose(1, 0).take(0, 1, 40, 3..40)"#).unwrap();
    floats(&evaluate_to_vec(&expr, DType::F32, source).unwrap())
}

#[test]
fn other_tensors_are_the_sources() {
    let source = memory(&[1, 16], &[1.0; 16]);
    let scheme = Scheme { bits: CodeBits::Four, length: 16, symmetric: true };
    let quantised = quantised(&source, r#"w"w""#, scheme);
    assert_eq!(dense(&quantised, "w"), [1.0; 16]);
    assert!(quantised.encoding("w").is_none() && quantised.encoding("q").is_some());
    let mut zeros = [0];
    let none = quantised.read_blocks("q", 0..1, BlockPart::Zeros(&mut zeros));
    assert!(matches!(none, Err(SourceError::NoSuchPart { .. })));
}
