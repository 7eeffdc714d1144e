//! Every step against an evaluator that cannot be wrong: index arithmetic, one element at a time.

use crate::weights::SourceError;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use half::{bf16, f16};
use proptest::prelude::*;
use qeff_plugin_api::weight::{RopeKind, RopePart, RopeTable};
use qeff_plugin_api::{TensorIndex, TensorInfo};

use super::*;

/// Tensors in memory. Lends copies, so that everything a tile keeps is seen to be bounded.
#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) index: TensorIndex,
    pub(crate) bytes: BTreeMap<String, Vec<u8>>,
    longest: AtomicU64,
    held: std::sync::Mutex<BTreeMap<String, i64>>,
}

impl Memory {
    pub(crate) fn add(&mut self, name: &str, dtype: DType, shape: &[u64], bytes: Vec<u8>) {
        self.index.insert(name, TensorInfo { dtype, shape: shape.to_vec() });
        self.bytes.insert(name.to_owned(), bytes);
    }

    fn numbers(&self, name: &str) -> Vec<f32> {
        let bytes = &self.bytes[name];
        match self.index.get(name).unwrap().dtype {
            DType::F64 => bytes.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
            DType::F32 => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            DType::F16 => bytes.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            DType::BF16 => bytes.as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
            other => panic!("{other}"),
        }
    }
}

impl TensorSource for Memory {
    fn index(&self) -> &TensorIndex {
        &self.index
    }

    fn lend(&self, name: &str, elements: Range<u64>) -> Result<Cow<'_, [u8]>, SourceError> {
        let size = self.info(name)?.dtype.size() as u64;
        self.longest.fetch_max((elements.end - elements.start) * size, Ordering::Relaxed);
        let range = (elements.start * size) as usize..(elements.end * size) as usize;
        let bytes = self.bytes[name].get(range).ok_or_else(|| SourceError::OutOfRange {
            tensor: name.to_owned(),
            range: elements,
            count: 0,
        })?;
        *self.held.lock().unwrap().entry(name.to_owned()).or_default() += 1;
        Ok(Cow::Owned(bytes.to_vec()))
    }

    fn release(&self, name: &str, _: Range<u64>) {
        self.held.lock().unwrap().insert(name.to_owned(), 0);
    }
}

/// A sink that refuses bytes it has seen.
struct Once(std::sync::Mutex<(Vec<u8>, Vec<bool>)>);

impl Once {
    fn new(length: u64) -> Self {
        Self(std::sync::Mutex::new((vec![0; length as usize], vec![false; length as usize])))
    }

    fn take(self) -> Vec<u8> {
        let (bytes, seen) = self.0.into_inner().unwrap();
        assert!(seen.iter().all(|&seen| seen), "a byte was never written");
        bytes
    }
}

impl TileSink for Once {
    fn write(&self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        let (out, seen) = &mut *self.0.lock().unwrap();
        let range = offset as usize..offset as usize + bytes.len();
        assert!(!seen[range.clone()].contains(&true), "bytes {range:?} were written twice");
        seen[range.clone()].fill(true);
        out[range].copy_from_slice(bytes);
        Ok(())
    }
}

fn unravel(mut at: u64, shape: &[u64]) -> Vec<u64> {
    let mut coordinates = vec![0; shape.len()];
    for (c, dim) in coordinates.iter_mut().zip(shape).rev() {
        (*c, at) = (at % dim, at / dim);
    }
    coordinates
}

fn ravel(coordinates: &[u64], shape: &[u64]) -> u64 {
    coordinates.iter().zip(shape).fold(0, |at, (c, dim)| at * dim + c)
}

/// The definition of every step.
fn naive(expr: &WeightExpr, source: &Memory) -> Vec<f32> {
    let shape = expr.shape(&source.index).unwrap();
    let count: u64 = shape.iter().product();
    let of: Vec<(Vec<u64>, Vec<f32>)> =
        expr.operands().iter().map(|of| (of.shape(&source.index).unwrap(), naive(of, source))).collect();
    let pick = |f: &dyn Fn(Vec<u64>) -> (usize, Vec<u64>)| -> Vec<f32> {
        let element = |at| {
            let (part, coordinates) = f(unravel(at, &shape));
            of[part].1[ravel(&coordinates, &of[part].0) as usize]
        };
        (0..count).map(element).collect()
    };
    match expr {
        WeightExpr::Tensor(name) => source.numbers(name),
        WeightExpr::Fill { value, .. } => vec![*value; count as usize],
        WeightExpr::Rope(table) => {
            let inverse = table.inverse_frequencies();
            let mut rows = vec![0.0; count as usize];
            for (position, row) in rows.chunks_mut((table.width / 2) as usize).enumerate() {
                table.write_row(&inverse, position as u64, row);
            }
            rows
        }
        WeightExpr::Transpose { perm, .. } => pick(&|c| {
            let mut inner = c.clone();
            perm.iter().zip(&c).for_each(|(&axis, &c)| inner[axis] = c);
            (0, inner)
        }),
        WeightExpr::Take { axis, width, columns, .. } => pick(&|mut c| {
            let keep = columns.end - columns.start;
            c[*axis] = c[*axis] / keep * width + columns.start + c[*axis] % keep;
            (0, c)
        }),
        WeightExpr::Reshape { .. } => of[0].1.clone(),
        WeightExpr::Concat { axis, .. } => pick(&|mut c| {
            let mut part = 0;
            while c[*axis] >= of[part].0[*axis] {
                c[*axis] -= of[part].0[*axis];
                part += 1;
            }
            (part, c)
        }),
        WeightExpr::Stack { axis, .. } => pick(&|mut c| (c.remove(*axis) as usize, c)),
        WeightExpr::Repeat { axis, groups, times, .. } => pick(&|mut c| {
            let block = of[0].0[*axis] / groups;
            c[*axis] = c[*axis] / (block * times) * block + c[*axis] % block;
            (0, c)
        }),
        WeightExpr::WeightNorm { axis, .. } => {
            let place = |at: u64| unravel(at, &shape)[*axis];
            let squares = |place_of: u64| -> f64 {
                (0..count).filter(|&at| place(at) == place_of).map(|at| f64::from(of[1].1[at as usize]).powi(2)).sum()
            };
            (0..count)
                .map(|at| {
                    let gain = f64::from(of[0].1[place(at) as usize]);
                    (gain * f64::from(of[1].1[at as usize]) / squares(place(at)).sqrt()) as f32
                })
                .collect()
        }
        WeightExpr::Affine { scale, offset, .. } => of[0].1.iter().map(|x| scale * x + offset).collect(),
    }
}

fn encode(numbers: &[f32], dtype: DType) -> Vec<u8> {
    numbers
        .iter()
        .flat_map(|&x| match dtype {
            DType::F64 => f64::from(x).to_le_bytes().to_vec(),
            DType::F32 => x.to_le_bytes().to_vec(),
            DType::F16 => f16::from_f32(x).to_le_bytes().to_vec(),
            DType::BF16 => bf16::from_f32(x).to_le_bytes().to_vec(),
            other => panic!("{other}"),
        })
        .collect()
}

const FLOATS: [DType; 4] = [DType::F32, DType::F16, DType::BF16, DType::F64];

/// Draws an expression from a tape of numbers, whatever they are; every result has a shape.
struct Tape<'a> {
    numbers: std::slice::Iter<'a, u16>,
    source: Memory,
}

impl Tape<'_> {
    fn below(&mut self, limit: usize) -> usize {
        self.numbers.next().map_or(0, |&n| usize::from(n)) % limit.max(1)
    }

    fn shape(&self, expr: &WeightExpr) -> Vec<u64> {
        expr.shape(&self.source.index).unwrap()
    }

    fn dims(&mut self) -> Vec<u64> {
        let rank = self.below(4);
        (0..rank).map(|_| 1 + self.below(7) as u64).collect()
    }

    fn leaf(&mut self, shape: &[u64]) -> WeightExpr {
        match self.below(8) {
            0 => WeightExpr::Fill { value: self.below(9) as f32 - 4.0, shape: shape.to_vec() },
            1 if shape.len() == 2 => WeightExpr::Rope(RopeTable {
                part: [RopePart::Cos, RopePart::Sin][self.below(2)],
                kind: RopeKind::Linear { factor: 2.0 },
                base: 100.0,
                width: shape[1] * 2,
                positions: shape[0],
                reach: 0,
            }),
            _ => {
                let name = format!("t{}", self.source.bytes.len());
                let dtype = FLOATS[self.below(4)];
                let first = self.below(50) as f32;
                let count: u64 = shape.iter().product();
                let numbers: Vec<f32> = (0..count).map(|i| first + i as f32 * 0.25).collect();
                self.source.add(&name, dtype, shape, encode(&numbers, dtype));
                WeightExpr::tensor(name)
            }
        }
    }

    fn expr(&mut self, depth: usize) -> WeightExpr {
        if depth == 0 {
            let shape = self.dims();
            return self.leaf(&shape);
        }
        let of = self.expr(depth - 1);
        let shape = self.shape(&of);
        let count: u64 = shape.iter().product();
        let rank = shape.len();
        let axis = self.below(rank);
        let divisor = |tape: &mut Self, n: u64| {
            let divisors: Vec<u64> = (1..=n).filter(|d| n.is_multiple_of(*d)).collect();
            divisors[tape.below(divisors.len())]
        };
        match self.below(8) {
            0 => {
                let mut perm: Vec<usize> = (0..rank).collect();
                (1..rank).for_each(|i| perm.swap(i, self.below(i + 1)));
                WeightExpr::Transpose { of: Box::new(of), perm }
            }
            1 if rank > 0 => {
                let groups = divisor(self, shape[axis]);
                let width = shape[axis] / groups;
                let start = self.below(width as usize) as u64;
                let end = start + 1 + self.below((width - start) as usize) as u64;
                of.take(axis, groups, width, start..end)
            }
            2 | 3 => {
                let mut left = count;
                let mut dims = Vec::new();
                for _ in 0..self.below(4) {
                    let dim = divisor(self, left);
                    dims.push(dim);
                    left /= dim;
                }
                if left > 1 || dims.is_empty() && self.below(2) == 0 {
                    dims.push(left);
                }
                of.reshape(dims)
            }
            4 if rank > 0 && count < 400 => {
                let mut other = shape.clone();
                other[axis] = 1 + self.below(4) as u64;
                let mut parts = vec![of, self.leaf(&other)];
                if self.below(2) == 0 {
                    parts.swap(0, 1);
                }
                WeightExpr::Concat { axis, parts }
            }
            5 if count < 400 => {
                let axis = self.below(rank + 1);
                let parts = vec![self.leaf(&shape), of, self.leaf(&shape)];
                WeightExpr::Stack { axis, parts }
            }
            6 if rank > 0 && count < 400 => {
                let groups = divisor(self, shape[axis]);
                of.repeat(axis, groups, 1 + self.below(3) as u64)
            }
            7 => of.affine([2.0, -0.5, 1.0][self.below(3)], [0.0, 1.0][self.below(2)]),
            _ => of,
        }
    }
}

#[track_caller]
fn check(expr: &WeightExpr, target: DType, source: &Memory, budget: usize) {
    let expected = encode(&naive(expr, source), target);
    let sink = Once::new(expected.len() as u64);
    let traffic = write(expr, target, source, &sink, budget).unwrap();
    let found = sink.take();
    assert_eq!(traffic.written as usize, found.len());
    let at = found.iter().zip(&expected).position(|(a, b)| a != b);
    assert_eq!(at, None, "{expr} as {target} within {budget}: first wrong byte");
    assert_eq!(found.len(), expected.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]
    #[test]
    fn any_expression_is_what_it_says(
        numbers in prop::collection::vec(any::<u16>(), 60),
        depth in 0..7usize,
        target in prop::sample::select(&FLOATS[..3]),
        budget in prop_oneof![1..64usize, 64..4096usize, Just(1 << 20)],
    ) {
        let mut tape = Tape { numbers: numbers.iter(), source: Memory::default() };
        let expr = tape.expr(depth);
        let source = tape.source;
        check(&expr, target, &source, budget);
        let longest = source.longest.load(Ordering::Relaxed);
        prop_assert!(longest <= (budget as u64 / 4).max(8), "lent {} bytes within {}", longest, budget);
        prop_assert!(source.held.lock().unwrap().values().all(|&held| held == 0), "not given back");
        // The canonical form means the same.
        check(&expr.clone().simplified(&source.index), target, &source, budget);
    }
}

fn counting(shape: &[u64], dtype: DType) -> Memory {
    let mut source = Memory::default();
    let count: u64 = shape.iter().product();
    let numbers: Vec<f32> = (0..count).map(|i| (i % 2039) as f32).collect();
    source.add("a", dtype, shape, encode(&numbers, dtype));
    source
}

#[test]
fn transposes_are_right_across_block_borders() {
    for (rows, columns) in [(1, 200), (63, 65), (64, 64), (130, 129), (257, 3)] {
        for from in FLOATS {
            let source = counting(&[rows, columns], from);
            for budget in [1 << 10, 1 << 20] {
                check(&WeightExpr::tensor("a").transposed(), DType::F16, &source, budget);
                check(&WeightExpr::tensor("a").transposed(), from, &source, budget);
            }
        }
    }
}

#[test]
fn a_transposed_weight_is_read_once() {
    let source = counting(&[300, 500], DType::F32);
    let sink = Once::new(600_000);
    let expr = WeightExpr::tensor("a").transposed();
    let evaluation = Evaluation::new(&expr, DType::F32, &source).unwrap();
    assert!(evaluation.tiles(1 << 18).len() > 1);
    let traffic = write(&expr, DType::F32, &source, &sink, 1 << 18).unwrap();
    assert_eq!(traffic, Traffic { read: 600_000, written: 600_000, ..Traffic::default() });
}

#[test]
fn stored_bytes_go_straight_through() {
    let source = counting(&[100, 30], DType::BF16);
    for text in [
        r#"w"a""#,
        r#"w"a".take(0, 1, 100, 7..93)"#,
        r#"concat(0, w"a".take(0, 1, 100, 50..100), w"a".take(0, 1, 100, 0..50))"#,
        r#"stack(0, w"a", w"a").reshape(2, 10, 300)"#,
    ] {
        let expr = WeightExpr::parse(text).unwrap();
        assert!(Evaluation::new(&expr, DType::BF16, &source).unwrap().tiles(100).direct, "{text}");
        assert!(!Evaluation::new(&expr, DType::F32, &source).unwrap().tiles(100).direct, "{text}");
        for budget in [1, 100, 1000, 1 << 20] {
            check(&expr, DType::BF16, &source, budget);
        }
    }
}

#[test]
fn normalised_weights() {
    for from in FLOATS {
        let mut source = counting(&[4, 3, 5], from);
        source.add("g", from, &[1, 1, 5], encode(&[1.0, 2.0, -3.0, 0.5, 4.0], from));
        for steps in ["", ".transpose(2, 0, 1)", ".take(0, 1, 4, 1..3).affine(2, 1)", ".reshape(12, 5).transpose(1, 0)"]
        {
            let expr = WeightExpr::parse(&format!("weight_norm(2, w\"g\", w\"a\"){steps}")).unwrap();
            assert_eq!(WeightExpr::parse(&expr.to_string()).unwrap(), expr);
            for budget in [1, 100, 1 << 20] {
                check(&expr, DType::F32, &source, budget);
                check(&expr, DType::F16, &source, budget);
            }
        }
        for wrong in
            ["weight_norm(1, w\"g\", w\"a\")", "weight_norm(3, w\"g\", w\"a\")", "weight_norm(2, w\"a\", w\"g\")"]
        {
            assert!(WeightExpr::parse(wrong).unwrap().shape(&source.index).is_err(), "{wrong}");
        }
    }
    assert!(WeightExpr::parse("weight_norm(0, w\"a\")").is_err());
}

#[test]
fn integers_and_flags_are_copied() {
    let mut source = Memory::default();
    let bytes: Vec<u8> = (0..96).collect();
    source.add("i", DType::I64, &[3, 4], bytes.clone());
    source.add("b", DType::Bool, &[2], vec![1, 0]);
    let transposed = evaluate_to_vec(&WeightExpr::tensor("i").transposed(), DType::I64, &source).unwrap();
    assert_eq!(transposed[8..16], bytes[32..40]);
    let filled = WeightExpr::parse("concat(0, w\"b\", fill(1, [2]))").unwrap();
    assert_eq!(evaluate_to_vec(&filled, DType::Bool, &source).unwrap(), [1, 0, 1, 1]);
    let minus = WeightExpr::Fill { value: -2.0, shape: vec![1] };
    assert_eq!(evaluate_to_vec(&minus, DType::I32, &source).unwrap(), (-2i32).to_le_bytes());
}

#[test]
fn nothing_is_written_for_no_elements() {
    let mut source = Memory::default();
    source.add("a", DType::F32, &[3, 0], vec![]);
    for text in [r#"w"a""#, r#"w"a".transpose(1, 0).reshape(0)"#, r#"w"a".affine(2, 1)"#, "fill(1, [0, 4])"] {
        let expr = WeightExpr::parse(text).unwrap();
        assert_eq!(evaluate_to_vec(&expr, DType::F32, &source).unwrap(), [] as [u8; 0], "{text}");
    }
}

#[test]
fn refusals_name_tensor_and_types() {
    let mut source = counting(&[2, 3], DType::F32);
    source.add("i", DType::I32, &[2], vec![0; 8]);
    let refuse = |text: &str, target, parts: &[&str]| {
        let expr = WeightExpr::parse(text).unwrap();
        let message = Evaluation::new(&expr, target, &source).err().unwrap().to_string();
        for part in parts {
            assert!(message.contains(part), "`{part}` is not in: {message}");
        }
    };
    refuse(r#"w"b""#, DType::F32, &["no tensor `b`"]);
    refuse(r#"w"i""#, DType::F32, &["`i`", "i32", "f32"]);
    refuse(r#"w"i".affine(1, 2)"#, DType::I32, &["`i`", "without arithmetic"]);
    refuse(r#"w"a""#, DType::I32, &["`a`"]);
    refuse(r#"w"a".transpose(0, 0)"#, DType::F32, &["transpose", "[2, 3]"]);
    refuse("fill(0.5, [1])", DType::I64, &["fill(0.5)", "i64"]);
    refuse("fill(256, [1])", DType::U8, &["fill(256)", "u8"]);
    refuse("fill(1, [4294967296, 4294967296])", DType::F32, &["4294967296"]);
    refuse("rope(cos, default, base=10, width=4, positions=2, reach=0)", DType::I64, &["rotary"]);
    refuse(
        "rope(cos, longrope, base=10, width=4, positions=2, reach=0, short=[1], long=[1, 2], original=4, attention_factor=1)",
        DType::F32,
        &["2 divisors", "1 short"],
    );
    let mut deep = WeightExpr::tensor("a");
    for _ in 0..300 {
        deep = deep.affine(1.0, 1.0);
    }
    assert!(matches!(Evaluation::new(&deep, DType::F32, &source).err(), Some(EvalError::TooDeep { .. })));
}

#[test]
fn a_sink_that_fails_stops_the_write() {
    struct Full;
    impl TileSink for Full {
        fn write(&self, _: u64, _: &[u8]) -> std::io::Result<()> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
    }
    let source = counting(&[20, 3], DType::F32);
    for text in [r#"w"a""#, r#"w"a".transpose(1, 0)"#] {
        let error = write(&WeightExpr::parse(text).unwrap(), DType::F32, &source, &Full, 64).unwrap_err();
        assert!(matches!(error, EvalError::Sink(e) if e.kind() == std::io::ErrorKind::StorageFull));
    }
}
