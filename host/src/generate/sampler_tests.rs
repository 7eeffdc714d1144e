use super::*;
use proptest::prelude::*;

fn sampled() -> Sampling {
    Sampling { temperature: 1.0, ..Sampling::default() }
}

fn pick(settings: &Sampling, logits: &[f32]) -> u32 {
    Sampler::new(settings).expect("valid").pick(logits, &[]).expect("a usable row")
}

/// Every id that `n` draws give, with its share.
fn shares(settings: &Sampling, logits: &[f32], n: usize) -> Vec<f64> {
    let mut sampler = Sampler::new(settings).expect("valid");
    let mut counts = vec![0.0; logits.len()];
    for _ in 0..n {
        counts[sampler.pick(logits, &[]).expect("a usable row") as usize] += 1.0 / n as f64;
    }
    counts
}

/// Probabilities by the textbook: full sorts, one warper after the other.
fn textbook(settings: &Sampling, logits: &[f32]) -> Vec<f64> {
    let softmax = |row: &[f64]| {
        let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let exp: Vec<f64> = row.iter().map(|x| (x - top).exp()).collect();
        let sum: f64 = exp.iter().sum();
        exp.into_iter().map(|x| x / sum).collect::<Vec<_>>()
    };
    let mut row: Vec<f64> = logits.iter().map(|x| f64::from(x / settings.temperature)).collect();
    if let Some(k) = settings.top_k {
        let mut sorted = row.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let threshold = sorted[k.min(row.len()) - 1];
        row.iter_mut().filter(|x| **x < threshold).for_each(|x| *x = f64::NEG_INFINITY);
    }
    if settings.top_p < 1.0 {
        let probabilities = softmax(&row);
        let mut ascending: Vec<usize> = (0..row.len()).collect();
        ascending.sort_by(|a, b| probabilities[*a].total_cmp(&probabilities[*b]));
        let last = ascending.len() - 1;
        let mut sum = 0.0;
        for id in &ascending[..last] {
            sum += probabilities[*id];
            if sum <= 1.0 - f64::from(settings.top_p) {
                row[*id] = f64::NEG_INFINITY;
            }
        }
    }
    let probabilities = softmax(&row);
    let top = probabilities.iter().copied().fold(0.0, f64::max);
    row.iter_mut()
        .zip(&probabilities)
        .filter(|(_, p)| **p < f64::from(settings.min_p) * top)
        .for_each(|(x, _)| *x = f64::NEG_INFINITY);
    softmax(&row)
}

#[test]
fn greedy_takes_the_first_maximum() {
    let rows: [(&[f32], u32); 5] = [
        (&[1.0, 3.0, 3.0], 1),
        (&[f32::NAN, 1.0, 2.0], 2),
        (&[f32::NEG_INFINITY, -5.0], 1),
        (&[0.0, f32::INFINITY, f32::INFINITY], 1),
        (&[-0.0, 0.0], 0),
    ];
    for (row, expected) in rows {
        assert_eq!(pick(&Sampling::default(), row), expected, "{row:?}");
    }
    assert_eq!(pick(&sampled(), &[0.0, f32::INFINITY, 9.0]), 1);
}

#[test]
fn a_row_without_numbers_is_refused() {
    for settings in [Sampling::default(), sampled()] {
        for row in [&[f32::NAN, f32::NEG_INFINITY][..], &[]] {
            let error = Sampler::new(&settings).expect("valid").pick(row, &[]).expect_err("nothing to pick");
            assert!(matches!(error, SamplingError::NoLogits { .. }), "{error}");
        }
    }
}

#[test]
fn settings_outside_their_range_are_named() {
    let base = Sampling::default();
    let rows = [
        (Sampling { temperature: -1.0, ..base.clone() }, "temperature is -1"),
        (Sampling { temperature: f32::NAN, ..base.clone() }, "temperature is NaN"),
        (Sampling { top_p: 0.0, ..base.clone() }, "top_p is 0"),
        (Sampling { top_p: 1.5, ..base.clone() }, "top_p is 1.5"),
        (Sampling { min_p: -0.1, ..base.clone() }, "min_p is -0.1"),
        (Sampling { top_k: Some(0), ..base.clone() }, "top_k is 0"),
        (Sampling { repetition_penalty: 0.0, ..base.clone() }, "repetition_penalty is 0"),
        (Sampling { repetition_penalty: f32::INFINITY, ..base }, "repetition_penalty is inf"),
    ];
    for (settings, expected) in rows {
        let error = Sampler::new(&settings).expect_err("must be refused").to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn repetition_divides_positive_and_multiplies_negative_logits_once() {
    let settings = Sampling { repetition_penalty: 2.0, ..Sampling::default() };
    let mut sampler = Sampler::new(&settings).expect("valid");
    assert_eq!(sampler.pick(&[3.0, 2.0], &[0, 0]).expect("row"), 1);
    assert_eq!(sampler.pick(&[3.0, 1.4], &[0, 0]).expect("row"), 0, "penalised twice would be 0.75");
    assert_eq!(sampler.pick(&[-1.0, -1.5], &[0]).expect("row"), 1);
    assert_eq!(sampler.pick(&[3.0, 2.0], &[7, u32::MAX]).expect("row"), 0, "ids beyond the row");
}

#[test]
fn draws_follow_the_distribution() {
    let logits = [2.0, 1.0, 0.5, 0.0, -1.0, -3.0, f32::NEG_INFINITY];
    let rows = [
        sampled(),
        Sampling { temperature: 0.5, ..sampled() },
        Sampling { top_k: Some(3), ..sampled() },
        Sampling { top_p: 0.8, ..sampled() },
        Sampling { min_p: 0.2, ..sampled() },
        Sampling { temperature: 1.3, top_k: Some(5), top_p: 0.9, min_p: 0.1, ..sampled() },
    ];
    for settings in rows {
        let found = shares(&settings, &logits, 40_000);
        for (id, (found, expected)) in found.iter().zip(textbook(&settings, &logits)).enumerate() {
            assert!((found - expected).abs() < 0.012, "{settings:?}: id {id} came {found}, expected {expected}");
            assert!(expected > 0.0 || *found == 0.0, "{settings:?}: id {id} is filtered");
        }
    }
}

/// `sampler_rows.json` is what the processors of transformers 4.57.6 leave of random rows (`null` is -inf).
#[test]
fn filtered_distributions_are_those_of_transformers() {
    #[derive(serde::Deserialize)]
    struct Row {
        logits: Vec<Option<f32>>,
        history: Vec<u32>,
        temperature: f32,
        top_k: Option<usize>,
        top_p: f32,
        min_p: f32,
        repetition_penalty: f32,
        probabilities: Vec<f64>,
    }
    let rows: Vec<Row> = serde_json::from_str(include_str!("sampler_rows.json")).expect("JSON");
    for row in rows {
        let Row { temperature, top_k, top_p, min_p, repetition_penalty, .. } = row;
        let settings = Sampling { temperature, top_k, top_p, min_p, repetition_penalty, seed: 0 };
        let logits: Vec<f32> = row.logits.iter().map(|x| x.unwrap_or(f32::NEG_INFINITY)).collect();
        let sampler = Sampler::new(&settings).expect("valid");
        let mut scores = Vec::new();
        let scores = sampler.penalise(&logits, &row.history, &mut scores);
        let (_, top) = first_maximum(scores).expect("a usable row");
        let kept = sampler.distribution(scores, top);
        let total: f64 = kept.iter().map(|candidate| candidate.weight).sum();
        let mut found = vec![0.0; logits.len()];
        kept.iter().for_each(|candidate| found[candidate.id as usize] = candidate.weight / total);
        for (id, (found, expected)) in found.iter().zip(&row.probabilities).enumerate() {
            let close = (found - expected).abs() <= 2e-5 * expected;
            assert!(close, "{settings:?}: id {id} has {found}, expected {expected}");
        }
    }
}

#[test]
fn the_generator_is_the_published_one() {
    // From the authors' C, started at state 1, 2, 3, 4.
    let mut random = Random { state: [1, 2, 3, 4] };
    assert_eq!([random.next(), random.next(), random.next()], [41943041, 58720359, 3588806011781223]);
    // SplitMix64 started at 0.
    assert_eq!(split_mix(&mut 0), 0xE220_A839_7B1D_CDAF);
}

#[test]
fn requests_do_not_share_a_stream() {
    let settings = Sampling { seed: 7, ..sampled() };
    let draws = |index| {
        let mut sampler = Sampler::for_request(&settings, index).expect("valid");
        (0..20).map(|_| sampler.pick(&[0.0; 50], &[]).expect("row")).collect::<Vec<_>>()
    };
    assert_eq!(draws(3), draws(3));
    assert_ne!(draws(3), draws(4));
}

fn logits() -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(
        prop_oneof![8 => -20.0f32..20.0, 2 => (-4i8..4).prop_map(f32::from), 1 => Just(f32::NEG_INFINITY), 1 => Just(f32::NAN)],
        1..300,
    )
    .prop_filter("one usable logit", |row| row.iter().any(|x| x.is_finite()))
}

proptest! {
    #[test]
    fn top_k_stays_within_the_k_largest(row in logits(), k in 1usize..20, seed: u64) {
        let id = pick(&Sampling { top_k: Some(k), seed, ..sampled() }, &row);
        let larger = row.iter().filter(|x| **x > row[id as usize]).count();
        prop_assert!(larger < k, "{larger} logits are larger");
    }

    #[test]
    fn top_p_keeps_the_smallest_set_that_suffices(row in logits(), p in 0.01f64..0.999) {
        let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let all: Vec<_> = row.iter().zip(0..).filter(|(x, _)| **x > f32::NEG_INFINITY)
            .map(|(x, id)| Candidate::new(id, x - top)).collect();
        let total: f64 = all.iter().map(|c| c.weight).sum();
        let mut kept = all.clone();
        keep_top_p(&mut kept, p);
        let sum: f64 = kept.iter().map(|c| c.weight).sum();
        let last = kept.last().expect("never empty");
        prop_assert!(sum >= p * total * (1.0 - 1e-12));
        prop_assert!(sum - last.weight < p * total * (1.0 + 1e-12), "one fewer would do");
        for other in all.iter().filter(|c| kept.iter().all(|k| k.id != c.id)) {
            prop_assert!(other.score <= last.score);
        }
    }

    #[test]
    fn a_seed_repeats_itself(row in logits(), seed: u64, index: u64, temperature in 0.1f32..3.0) {
        let settings = Sampling { seed, temperature, top_p: 0.9, repetition_penalty: 1.2, ..sampled() };
        let run = || {
            let mut sampler = Sampler::for_request(&settings, index).expect("valid");
            (0..5).map(|_| sampler.pick(&row, &[0, 1])).collect::<Result<Vec<_>, _>>()
        };
        prop_assert_eq!(run(), run());
    }

    #[test]
    fn a_vanishing_temperature_is_greedy(row in logits(), seed: u64) {
        let best = pick(&Sampling::default(), &row);
        let near = row.iter().zip(0..).any(|(x, id)| id != best && row[best as usize] - x < 1e-3);
        prop_assume!(!near);
        prop_assert_eq!(pick(&Sampling { temperature: 1e-5, seed, ..sampled() }, &row), best);
        prop_assert_eq!(pick(&Sampling { temperature: f32::MIN_POSITIVE, seed, ..sampled() }, &row), best);
    }

    #[test]
    fn whatever_is_picked_has_a_number(row in logits(), seed: u64, k in 1usize..400, p in 0.01f32..=1.0, m in 0.0f32..=1.0) {
        let settings = Sampling { top_k: Some(k), top_p: p, min_p: m, seed, ..sampled() };
        prop_assert!(row[pick(&settings, &row) as usize].is_finite());
    }
}
