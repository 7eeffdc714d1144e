//! What to try next after a known message of a compiler.

/// A part of a message, in lower case, and the advice for it. The first that is found wins.
const KNOWN: &[(&[&str], &str)] = &[
    (
        // SDKs from before named specializations stop here (quic/efficient-transformers#1129).
        &["type_error.302", "type must be string, but is object"],
        "this SDK wants the classic form of specializations.json: add --specializations classic, or update the SDK to 1.22 or later",
    ),
    (
        &["invalid option"],
        "this SDK does not know a flag that it was given: check what stands after --, or update the SDK",
    ),
    (
        &["num_cores", "aic-num-cores", "number of cores", "nsp_alloc", "number of nsp"],
        "the card has fewer cores than asked for: try --num-cores 14, or what `qeff-host doctor` says of the cards",
    ),
    (
        &["not supported", "unsupported operator", "addnodestographfrommodel"],
        "the compiler does not know an operator of the graph: update the SDK, or report the operator and the SDK's version",
    ),
    (
        &["failed to mmap"],
        "the compiler could not read the weights beside the model: are all .onnx.data files there and whole?",
    ),
    (
        &["out of memory", "bad_alloc", "cannot allocate memory", "signal 9"],
        "memory ran out: on this machine, close other programs; on the cards, try --mxfp6-matmul, --mxint8-kv-cache, a shorter \
         --ctx-len, or more devices with --num-devices",
    ),
    (&["no space left on device"], "the disk is full: `qeff-host cache prune` frees what was made before"),
    (&["permission denied"], "is your user in the group `qaic`, and is the compiler executable?"),
];

/// Advice on the last lines of a compiler, if they are known.
pub fn hint(output: &str) -> Option<&'static str> {
    let output = output.to_ascii_lowercase();
    KNOWN.iter().find(|(parts, _)| parts.iter().any(|part| output.contains(part))).map(|(_, advice)| *advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_messages_have_advice() {
        let cases = [
            ("[json.exception.type_error.302] type must be string, but is object", Some("classic")),
            ("Invalid option -foo. Use -h, -help, or --help for list of options.", Some("does not know a flag")),
            ("QAIC_ERROR_NSP_ALLOC_FAILED: Failed to allocate NSP resources", Some("fewer cores")),
            ("Error message:  [Operator-'/x', opset_version-13, ir_version-7] : not supported", Some("operator")),
            ("terminate called after throwing an instance of 'std::bad_alloc'", Some("memory ran out")),
            ("write: No space left on device", Some("disk is full")),
            ("all is well", None),
        ];
        for (output, part) in cases {
            assert_eq!(
                hint(output).map(|advice| part.is_some_and(|part| advice.contains(part))),
                part.map(|_| true),
                "{output}"
            );
        }
    }
}
