use proptest::prelude::*;
use qeff_plugin_api::DType;

use super::*;
use crate::weights::{Checkpoint, Facets, TensorSource, ZeroPoint, blocks, evaluate_to_vec};

fn stored() -> Checkpoint {
    Checkpoint::open_gguf(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/gguf/types/types.gguf")).unwrap()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

/// What an engine makes of the facets: codes measured from the center, scaled, and offset.
fn multiplied_out(kept: &Kept, facets: &Facets<'_>) -> Vec<f32> {
    let read = |facet: Facet| evaluate_to_vec(&kept.facet(facet), facet.dtype(), facets).unwrap();
    let (low, scales) = (read(Facet::LowBits), floats(&read(Facet::Scales)));
    let high = if Facet::HighBits.is_of(&kept.layout) { read(Facet::HighBits) } else { vec![0; low.len()] };
    let codes: Vec<u8> =
        low.iter().zip(&high).flat_map(|(low, high)| [low & 15 | high << 4, low >> 4 | high & 0xf0]).collect();
    let offsets = if kept.layout.is_centered() { vec![0.0; scales.len()] } else { floats(&read(Facet::Offsets)) };
    let centered = match kept.layout.is_centered() {
        true => kept.layout,
        false => BlockLayout { zero: ZeroPoint::Shift, ..kept.layout },
    };
    let center = f32::from(kept.layout.bits.center());
    let shifts: Vec<f32> = offsets.iter().zip(&scales).map(|(offset, scale)| offset - center * scale).collect();
    let mut numbers = vec![0.0; codes.len()];
    blocks::decode(&centered, &codes, &scales, &shifts, &mut numbers);
    numbers
}

/// Expressions that leave the last axis alone, over tensors of one width; their leading axes multiply to at most 16 rows.
fn expressions(tensor: &'static str, width: u64) -> impl Strategy<Value = WeightExpr> {
    let index = stored().index().clone();
    let steps = prop::collection::vec((0..7usize, 0..6u64, 0..6u64), 0..6);
    steps.prop_map(move |steps| {
        let mut expr = WeightExpr::tensor(tensor);
        for (step, a, b) in steps {
            let shape = expr.shape(&index).unwrap();
            let (rows, rank) = (shape[..shape.len() - 1].iter().product::<u64>(), shape.len());
            let axis = (a % (rank as u64 - 1).max(1)) as usize;
            let room = rows <= 8;
            let length = shape[axis];
            expr = match step {
                0 if rank > 1 && length.is_multiple_of(2) => expr.take(axis, length / 2, 2, b % 2..b % 2 + 1),
                1 if rank > 1 => expr.take(axis, 1, length, b % length..length),
                2 if rank > 1 && room => WeightExpr::Concat { axis, parts: vec![expr.clone(), expr] },
                3 if room => WeightExpr::Stack { axis, parts: vec![expr.clone(), expr] },
                4 if rank > 1 && room => expr.repeat(axis, length, 2),
                5 if rank == 3 => WeightExpr::Transpose { of: Box::new(expr), perm: vec![1, 0, 2] },
                6 => expr.reshape(vec![rows, width]),
                _ => expr,
            };
        }
        expr
    })
}

fn kept_is_dense(expr: &WeightExpr) {
    let stored = stored();
    let facets = Facets::new(&stored);
    let kept = facets.blocks().kept(expr, facets.index()).unwrap();
    let found = multiplied_out(&kept, &facets);
    let dense = floats(&evaluate_to_vec(expr, DType::F32, &stored).unwrap());
    let scale = dense.iter().fold(0f32, |most, x| most.max(x.abs()));
    assert_eq!(found.len(), dense.len());
    for (at, (found, dense)) in found.iter().zip(&dense).enumerate() {
        assert!((found - dense).abs() <= 4e-6 * scale, "{expr} at {at}: {found}, expected {dense}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn steps_before_the_last_axis_commute_with_facets(
        expr in prop_oneof![expressions("Q4_0", 96), expressions("Q4_1", 96), expressions("Q6_K", 256), expressions("Q8_0", 96)],
    ) {
        kept_is_dense(&expr);
    }
}

#[test]
fn what_cannot_be_kept_says_why() {
    let stored = stored();
    let facets = Facets::new(&stored);
    let why = |text: &str| facets.blocks().kept(&WeightExpr::parse(text).unwrap(), facets.index()).map(|_| ());
    let cases = [
        (r#"w"F32""#, Dense::Plain),
        (r#"w"Q4_0".transpose(1, 0)"#, Dense::Step),
        (r#"w"Q4_0".take(1, 1, 96, 0..32)"#, Dense::Step),
        (r#"w"Q4_0".reshape(6, 32)"#, Dense::Step),
        (r#"w"Q4_0".affine(2, 0)"#, Dense::Step),
        (r#"concat(1, w"Q4_0", w"Q4_0")"#, Dense::Step),
        (r#"concat(0, w"Q4_0", w"Q4_1")"#, Dense::Mixed),
        (r#"concat(0, w"Q4_0", w"Q4_1", w"I8")"#, Dense::Mixed),
    ];
    for (text, expected) in cases {
        assert_eq!(why(text), Err(expected), "{text}");
    }
    // What is undone is no step.
    assert_eq!(why(r#"w"Q4_0".transpose(1, 0).transpose(1, 0)"#), Ok(()));
}

#[test]
fn a_facet_is_the_expression_over_another_tensor() {
    let stored = stored();
    let facets = Facets::new(&stored);
    let expr = WeightExpr::parse(r#"concat(0, w"Q4_0".take(0, 1, 2, 1..2), w"Q4_0".reshape(2, 1, 96).reshape(2, 96))"#);
    let kept = facets.blocks().kept(&expr.unwrap(), facets.index()).unwrap();
    let text = r#"concat(0, w"Q4_0#scales".take(0, 1, 2, 1..2), w"Q4_0#scales")"#;
    assert_eq!(kept.facet(Facet::Scales).to_string(), text);
    assert_eq!((kept.encoding.as_str(), kept.per_row()), ("Q4_0", 3));
}
