use super::*;
use crate::weights::{Checkpoint, TensorSource, evaluate_to_vec};
use qeff_plugin_api::{DType, WeightExpr};

fn fixtures() -> (Checkpoint, Checkpoint) {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/gguf/types");
    (Checkpoint::open_gguf(format!("{dir}/types.gguf")).unwrap(), Checkpoint::open(dir).unwrap())
}

#[test]
fn every_type_is_what_gguf_py_says_bit_for_bit() {
    let (stored, expected) = fixtures();
    assert_eq!(stored.index(), expected.index());
    let mut wrong = vec![];
    for (name, info) in expected.index().iter() {
        let count = info.shape.iter().product();
        if stored.lend(name, 0..count).unwrap() != expected.lend(name, 0..count).unwrap() {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
    assert_eq!(stored.index().len(), 22);
}

#[test]
fn a_range_may_cut_blocks() {
    let (stored, expected) = fixtures();
    for (name, info) in expected.index().iter() {
        let count: u64 = info.shape.iter().product();
        for start in [0, 1, 14, 15] {
            for end in [start, start + 1, 15, count - 1, count].into_iter().filter(|end| (start..=count).contains(end))
            {
                let (a, b) = (stored.lend(name, start..end).unwrap(), expected.lend(name, start..end).unwrap());
                assert!(a == b, "{name} {start}..{end}");
                stored.release(name, start..end);
            }
        }
        assert!(stored.lend(name, 0..count + 1).is_err() && stored.lend(name, u64::MAX - 1..u64::MAX).is_err());
    }
}

#[test]
fn decoded_tensors_lie_nowhere() {
    let (stored, _) = fixtures();
    assert!(stored.tensor("Q4_0").is_none());
    let plain = stored.tensor("F32").unwrap();
    assert_eq!(plain.length, 60);
}

#[test]
fn expressions_evaluate_over_blocks() {
    let (stored, expected) = fixtures();
    for name in ["Q4_K", "Q5_1"] {
        let of = WeightExpr::tensor(name).transposed();
        for target in [DType::F32, DType::F16] {
            let evaluate = |source| evaluate_to_vec(&of, target, source).unwrap();
            assert_eq!(evaluate(&stored), evaluate(&expected), "{name} {target}");
        }
    }
}

#[test]
fn small_mx_exponents_are_subnormal() {
    assert_eq!(half_power(0), f32::MIN_POSITIVE / 4.0);
    assert_eq!(half_power(1), f32::MIN_POSITIVE / 2.0);
    assert_eq!(half_power(2), f32::MIN_POSITIVE);
    assert_eq!(half_power(128), 1.0);
}
