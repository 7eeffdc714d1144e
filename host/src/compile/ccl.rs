//! Context lengths that attention looks at (the reference's CCL): one specialization for each, so that a short sequence
//! does not pay for a long context.
//!
//! The compiler tells specializations apart by their numbers, so prefill and decode must not share a length; the rules
//! below are the reference's, checked against its own results.

use anyhow::{Result, bail};

/// Context lengths come in steps of this.
const STEP: u64 = 1024;
/// Shortest length that pays.
const LEAST: u64 = 1024;
/// Distance that makes a prefill length differ from a decode length.
const APART: u64 = 32;
/// Up to this context one length does.
const SMALL: u64 = 4096;

/// What was asked for. Missing lists are chosen by the context.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ccl {
    /// Lengths for prefill.
    pub prefill: Option<Vec<u64>>,
    /// Lengths for decode.
    pub decode: Option<Vec<u64>>,
}

/// Lengths that are compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lengths {
    pub(super) prefill: Vec<u64>,
    pub(super) decode: Vec<u64>,
    /// The context, which automatic lists round up.
    pub(super) ctx_len: u64,
}

impl Ccl {
    /// The lengths for a context of `ctx_len` and calls of `prompt_len` tokens.
    pub(super) fn lengths(&self, ctx_len: u64, prompt_len: u64) -> Result<Lengths> {
        let one_list = prompt_len == 1;
        if self.prefill.is_none() && self.decode.is_none() {
            return automatic(ctx_len, one_list);
        }
        let given = |list: &Option<Vec<u64>>| list.clone().unwrap_or_else(|| vec![ctx_len]);
        Ok(checked(given(&self.prefill), given(&self.decode), ctx_len, one_list))
    }
}

fn automatic(ctx_len: u64, one_list: bool) -> Result<Lengths> {
    let Some(ctx_len) = ctx_len.checked_next_multiple_of(STEP) else {
        bail!("a context of {ctx_len} is too long for context lengths");
    };
    let (decode_start, prefill_start) = if ctx_len <= 32768 {
        (4096, 4000)
    } else if ctx_len <= 65536 {
        (8192, 8000)
    } else {
        (16384, 16000)
    };
    if one_list {
        let lengths = doubling(4096, ctx_len, 10);
        return Ok(checked(lengths.clone(), lengths, ctx_len, true));
    }
    if ctx_len <= SMALL {
        return Ok(checked(vec![ctx_len], vec![ctx_len], ctx_len, false));
    }
    let decode = doubling(decode_start, ctx_len, 5);
    // As many for prefill, so that each decode length has a partner a little below it.
    let mut prefill: Vec<u64> = (0..decode.len()).map(|i| prefill_start << i).collect();
    prefill.pop();
    prefill.push(ctx_len);
    Ok(checked(prefill, decode, ctx_len, false))
}

/// `start`, twice that, …, at most `most` lengths, the last of which is the context.
fn doubling(start: u64, ctx_len: u64, most: usize) -> Vec<u64> {
    let mut lengths: Vec<u64> =
        std::iter::successors(Some(start), |n| n.checked_mul(2)).take_while(|&n| n < ctx_len).take(most - 1).collect();
    lengths.push(ctx_len);
    lengths
}

/// The lists as they can be compiled: no shorter than what pays, none past the context, which both reach, and none twice.
fn checked(prefill: Vec<u64>, decode: Vec<u64>, ctx_len: u64, one_list: bool) -> Lengths {
    let raised = |mut list: Vec<u64>| {
        list.iter_mut().for_each(|n| *n = (*n).max(LEAST));
        if list.last().is_none_or(|&last| last < ctx_len) {
            list.push(ctx_len);
        }
        list.iter_mut().for_each(|n| *n = (*n).min(ctx_len));
        list.sort_unstable();
        list.dedup();
        list
    };
    let (mut prefill, mut decode) = (raised(prefill), raised(decode));
    if one_list {
        decode.append(&mut prefill);
        decode.sort_unstable();
        decode.dedup();
        return Lengths { prefill: decode.clone(), decode, ctx_len };
    }
    for i in 0..prefill.len() {
        let mut n = prefill[i];
        while n > APART && (decode.contains(&n) || prefill[..i].contains(&n)) {
            n = (n - 1) / APART * APART;
        }
        prefill[i] = n;
    }
    prefill.sort_unstable();
    prefill.dedup();
    Lengths { prefill, decode, ctx_len }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lists and context of the reference for lists (or none), context and prompt length.
    #[test]
    fn equals_the_reference() {
        type Case = (Option<&'static [u64]>, Option<&'static [u64]>, u64, u64, &'static [u64], &'static [u64], u64);
        let cases: [Case; 11] = [
            (None, None, 128, 32, &[992], &[1024], 1024),
            (None, None, 8192, 128, &[4000, 8160], &[4096, 8192], 8192),
            (None, None, 10000, 128, &[4000, 8000, 10208], &[4096, 8192, 10240], 10240),
            (None, None, 32768, 128, &[4000, 8000, 16000, 32736], &[4096, 8192, 16384, 32768], 32768),
            (None, None, 131072, 256, &[16000, 32000, 64000, 131040], &[16384, 32768, 65536, 131072], 131072),
            (None, None, 8192, 1, &[4096, 8192], &[4096, 8192], 8192),
            (Some(&[256, 500]), Some(&[512, 1024]), 1024, 128, &[992], &[1024], 1024),
            (Some(&[1024, 2048]), Some(&[2048, 3072, 4096]), 4096, 128, &[1024, 2016, 4064], &[2048, 3072, 4096], 4096),
            (Some(&[4096]), None, 8192, 128, &[4096, 8160], &[8192], 8192),
            (Some(&[4000]), Some(&[6144]), 8192, 1, &[4000, 6144, 8192], &[4000, 6144, 8192], 8192),
            (Some(&[600, 300]), Some(&[2048, 512, 512]), 1024, 32, &[992], &[1024], 1024),
        ];
        for (prefill, decode, ctx_len, prompt_len, want_prefill, want_decode, want_ctx) in cases {
            let ccl = Ccl { prefill: prefill.map(<[u64]>::to_vec), decode: decode.map(<[u64]>::to_vec) };
            let found = ccl.lengths(ctx_len, prompt_len).expect("lengths");
            let want = Lengths { prefill: want_prefill.to_vec(), decode: want_decode.to_vec(), ctx_len: want_ctx };
            assert_eq!(found, want, "{ccl:?} {ctx_len} {prompt_len}");
        }
    }

    #[test]
    fn a_context_without_end_is_refused() {
        assert!(Ccl::default().lengths(u64::MAX, 32).is_err());
    }
}
