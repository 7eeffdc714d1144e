use super::*;
use crate::qpc::messages::{Form, NetworkBinding, Shape, Shapes};

/// A container made by the rules above, which an independent parser was seen to accept: two ids, a key cache, logits and
/// the cache's next value, with two specializations.
const VECTOR: &str = "fM2hAAABAQB4AgAAAAAAAAAAAAAAAAAABAAAAAAAAAAoAAAAAAAAABgAAAAAAAAAAAAAAAAAAACoAAAAAAAAAPAAAAAAAAAABwAAAAAAAAAAAA\
AAAAAAAMAAAAAAAAAACAEAAAAAAABaAQAAAAAAAAAAAAAAAAAA0AAAAAAAAAAQAQAAAAAAAAIAAAAAAAAAAAAAAAAAAADgAAAAAAAAAHACAAAA\
AAAAY29uc3RhbnRzZGVzYy5iaW4AAAAAAAAAbmV0d29yay5lbGYAAAAAAG5ldHdvcmtkZXNjLmJpbgBxZWZmc2ltLmpzb24AAAAAAAAAAAAAAA\
AAAAAAAAAAAAAAAAAAAAAAf0VMRnNpbQAICRoJUUFpY0dyYXBoIiUKCWlucHV0X2lkcxILCAcVAACAPyICASAaCwgHFQAAgD8iAgEgIigKDHBv\
c2l0aW9uX2lkcxILCAcVAACAPyICASAaCwgHFQAAgD8iAgEgIi4KCnBhc3Rfa2V5LjASDggBFQAAgD8iBQECgAEQGg4IARUAAIA/IgUBAoABEC\
gBKiQKBmxvZ2l0cxIMCAAVAACAPyIDAQFkGgwIABUAAIA/IgMBAWQqPAoYcGFzdF9rZXkuMF9SZXRhaW5lZFN0YXRlEg4IARUAAIA/IgUBAoAB\
EBoOCAEVAACAPyIFAQKAARAoATgQcAGSAS8KBggHEgIBIAoGCAcSAgEgCgkIARIFAQKAARAKBwgAEgMBAWQKCQgBEgUBAoABEJIBLwoGCAcSAg\
EBCgYIBxICAQEKCQgBEgUBAoABEAoHCAASAwEBZAoJCAESBQECgAEQAAAAAAAAe30AAAAAAAA=";

fn vector() -> Vec<u8> {
    let code = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits: Vec<u8> = VECTOR.bytes().filter(|&byte| byte != b'=').map(code).collect();
    let mut bytes = vec![];
    for four in digits.chunks(4) {
        let word = four.iter().enumerate().fold(0u32, |word, (i, &digit)| word | u32::from(digit) << (18 - 6 * i));
        bytes.extend_from_slice(&word.to_be_bytes()[1..four.len()]);
    }
    bytes
}

/// A container, with everything at multiples of eight or with none at all, and addresses that begin at `base`.
fn container(segments: &[(&str, &[u8])], base: u64, aligned: bool) -> Vec<u8> {
    let mut bytes = vec![0; 40 + 32 * segments.len()];
    let put = |bytes: &mut Vec<u8>, data: &[u8]| {
        if aligned {
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
        let at = bytes.len() as u64;
        bytes.extend_from_slice(data);
        base + at
    };
    let mut table = vec![];
    for (name, data) in segments {
        let name = put(&mut bytes, &[name.as_bytes(), b"\0"].concat());
        let start = put(&mut bytes, data);
        for number in [data.len() as u64, 0, name, start] {
            table.extend_from_slice(&number.to_le_bytes());
        }
    }
    bytes[40..40 + table.len()].copy_from_slice(&table);
    bytes[..8].copy_from_slice(&[0x7c, 0xcd, 0xa1, 0, 0, 1, 1, 0]);
    let length = bytes.len() as u64;
    for (i, number) in [length, base, segments.len() as u64, base + 40].into_iter().enumerate() {
        bytes[8 + 8 * i..16 + 8 * i].copy_from_slice(&number.to_le_bytes());
    }
    bytes
}

fn binding(name: &str, kind: i32, dims: &[i32], partial: bool) -> NetworkBinding {
    let form = Some(Form { kind, dims: dims.to_vec() });
    NetworkBinding { name: name.into(), initial: form.clone(), transformed: form, is_partial_allowed: partial }
}

fn network(inputs: Vec<NetworkBinding>, outputs: Vec<NetworkBinding>, rows: &[&[&[i32]]]) -> NetworkDescriptor {
    let shapes =
        |row: &&[&[i32]]| Shapes { shapes: row.iter().map(|dims| Shape { kind: 0, dims: dims.to_vec() }).collect() };
    NetworkDescriptor {
        major: 9,
        minor: 0,
        network_name: "QAicGraph".into(),
        inputs,
        outputs,
        num_cores: 4,
        batch_size: 1,
        allowed_shapes: rows.iter().map(shapes).collect(),
    }
}

fn small() -> Vec<u8> {
    network(vec![binding("x", 7, &[1, 4], false)], vec![binding("y", 0, &[1, 8], false)], &[]).encode_to_vec()
}

#[test]
fn the_vector_is_read_as_the_independent_parser_reads_it() {
    let qpc = Qpc::parse(&vector()).unwrap();
    assert_eq!((qpc.devices(), qpc.cores(), qpc.bytes), (1, 16, 632));
    let slice = &qpc.slices[0];
    assert_eq!((slice.name.as_str(), slice.batch, slice.version), ("QAicGraph", 1, (9, 0)));
    let names: Vec<_> = slice.segments.iter().map(|segment| (segment.name.as_str(), segment.bytes)).collect();
    let expected = [("constantsdesc.bin", 24), ("network.elf", 7), ("networkdesc.bin", 346), ("qeffsim.json", 2)];
    assert_eq!(names, expected);
    let interface = &slice.interface;
    let listed: Vec<_> = interface
        .bindings
        .iter()
        .map(|b| (b.name.as_str(), b.elem, b.dims.clone(), b.direction == Direction::Input, b.partial))
        .collect();
    let state = vec![1, 2, 128, 16];
    assert_eq!(
        listed,
        [
            ("input_ids", Elem::I64, vec![1, 32], true, false),
            ("position_ids", Elem::I64, vec![1, 32], true, false),
            ("past_key.0", Elem::F16, state.clone(), true, true),
            ("logits", Elem::F32, vec![1, 1, 100], false, false),
            ("past_key.0_RetainedState", Elem::F16, state.clone(), false, true),
        ]
    );
    assert_eq!(interface.rows.len(), 2);
    assert_eq!(interface.rows[1], [vec![1, 1], vec![1, 1], state.clone(), vec![1, 1, 100], state]);
    assert_eq!(interface.states(), [State { input: 2, output: 4 }]);
}

#[test]
fn every_writer_is_read_alike() {
    let segments: [(&str, &[u8]); 2] = [("networkdesc.bin", &small()), ("network.elf", b"elf")];
    let expected = Qpc::parse(&container(&segments, 0, true)).unwrap();
    for (base, aligned) in [(0, false), (0x7f00_0000_1000, true), (0x7f00_0000_1001, false)] {
        let qpc = Qpc::parse(&container(&segments, base, aligned)).unwrap();
        assert_eq!(qpc.slices, expected.slices, "{base:#x} {aligned}");
    }
}

#[test]
fn several_devices_are_listed_in_their_order() {
    let inner: Vec<Vec<u8>> = (0..3u32)
        .map(|i| {
            let mut network = NetworkDescriptor::decode(small().as_slice()).unwrap();
            network.num_cores = i + 1;
            container(&[("networkdesc.bin", &network.encode_to_vec())], 0, true)
        })
        .collect();
    let names = ["QAicGraph_slice02", "QAicGraph_slice00", "QAicGraph_slice01"];
    let mut segments = vec![("mdp_meta_info", &b"{}"[..])];
    segments.extend([(names[0], &inner[2][..]), (names[1], &inner[0][..]), (names[2], &inner[1][..])]);
    let qpc = Qpc::parse(&container(&segments, 0, true)).unwrap();
    assert_eq!((qpc.devices(), qpc.cores()), (3, 3));
    assert_eq!(qpc.slices.iter().map(|slice| slice.cores).collect::<Vec<_>>(), [1, 2, 3]);

    segments.pop();
    let error = Qpc::parse(&container(&segments, 0, true)).unwrap_err().to_string();
    assert_eq!(error, "expected the slices of devices 0 to 1, found QAicGraph_slice00, QAicGraph_slice02");
    segments.truncate(1);
    let error = Qpc::parse(&container(&segments, 0, true)).unwrap_err().to_string();
    assert_eq!(error, "expected the slices of devices 0 to 0, found none");
    segments.push(("QAicGraph_slice00", &b"no container"[..]));
    let error = Qpc::parse(&container(&segments, 0, true)).unwrap_err().to_string();
    assert_eq!(error, "QAicGraph_slice00: expected a QPC, whose header has 40 bytes; found 12 bytes");
}

#[test]
fn a_single_specialization_is_a_row_of_its_own() {
    let interface = Interface::of_network(&NetworkDescriptor::decode(small().as_slice()).unwrap()).unwrap();
    assert_eq!(interface.rows, [vec![vec![1, 4], vec![1, 8]]]);
}

#[test]
fn names_are_found_as_the_reference_finds_them() {
    let inputs = vec![binding("layer0/past_key.0", 1, &[1], true), binding("layer0/x", 1, &[1], false)];
    let outputs = vec![binding("layer0/past_key.0_InternalRetainedState", 1, &[1], true)];
    let interface = Interface::of_network(&network(inputs, outputs, &[])).unwrap();
    assert_eq!((interface.input("x"), interface.output("x"), interface.input("y")), (Some(1), None, None));
    assert_eq!(interface.output("past_key.0_RetainedState"), Some(2));
    assert_eq!(interface.states(), [State { input: 0, output: 2 }]);
}

#[test]
fn damaged_files_are_refused_with_the_place() {
    let sound = vector();
    let with = |at: usize, bytes: &[u8]| {
        let mut damaged = sound.clone();
        damaged[at..at + bytes.len()].copy_from_slice(bytes);
        damaged
    };
    let far = u64::MAX.to_le_bytes();
    let cases = [
        (vec![], "expected a QPC, whose header has 40 bytes; found 0 bytes"),
        (with(0, b"ELF!"), "expected a QPC, which begins with 0x00a1cd7c; found 0x21464c45"),
        (with(6, &[0, 0]), "expected a QPC of form 1; found form 0, which only lives in memory"),
        (
            sound[..624].to_vec(),
            "the QPC says that it has 632 bytes, and there are 624; a copy stopped early, or it is damaged",
        ),
        (
            with(24, &far),
            "the table of 18446744073709551615 segments is said to be at 0x28, 18446744073709551615 bytes from base 0x0: \
             outside of the QPC's 632 bytes",
        ),
        (
            with(40, &far),
            "segment constantsdesc.bin is said to be at 0xf0, 18446744073709551615 bytes from base 0x0: outside of the QPC's \
             632 bytes",
        ),
        (
            with(56, &far),
            "the name of segment 0 is said to be at 0xffffffffffffffff, 1 bytes from base 0x0: outside of the QPC's 632 bytes",
        ),
        (
            with(16, &[41]),
            "the table of 4 segments is said to be at 0x28, 128 bytes from base 0x29: outside of the QPC's 632 bytes",
        ),
    ];
    for (bytes, expected) in cases {
        assert_eq!(Qpc::parse(&bytes).unwrap_err().to_string(), expected);
    }
    let error = Qpc::parse(&container(&[("a", b""), ("b", b"")], 0, true)).unwrap_err().to_string();
    assert_eq!(error, "there is no segment networkdesc.bin; found a, b");
}

#[test]
fn descriptors_that_contradict_themselves_are_refused() {
    let x = || binding("x", 7, &[1, 4], false);
    let cases = [
        (network(vec![binding("x", 7, &[-1], false)], vec![], &[]), "`x` has dimensions [-1]"),
        (network(vec![binding("x", 7, &[i32::MAX; 3], false)], vec![], &[]), "at most 2^40 elements"),
        (network(vec![x(), x()], vec![], &[]), "two bindings are called `x`"),
        (network(vec![x()], vec![], &[&[&[1], &[1]]]), "shapes 0 are 2, and there are 1 bindings"),
        (
            network(vec![NetworkBinding { name: "x".into(), ..NetworkBinding::default() }], vec![], &[]),
            "binding `x` has neither type nor dimensions",
        ),
    ];
    for (network, expected) in cases {
        let bytes = container(&[("networkdesc.bin", &network.encode_to_vec())], 0, true);
        let error = Qpc::parse(&bytes).unwrap_err().to_string();
        assert!(error.starts_with("networkdesc.bin: ") && error.contains(expected), "{error}");
    }
    let bytes = container(&[("networkdesc.bin", b"\xff\xff\xff")], 0, true);
    assert!(Qpc::parse(&bytes).unwrap_err().to_string().starts_with("networkdesc.bin: expected a descriptor"));
}

#[test]
fn every_cut_and_every_flipped_byte_is_an_answer_or_an_error() {
    let sound = vector();
    for cut in 0..sound.len() {
        assert!(Qpc::parse(&sound[..cut]).is_err());
    }
    for at in 0..sound.len() {
        for mask in [1, 0x80, 0xff] {
            let mut damaged = sound.clone();
            damaged[at] ^= mask;
            let _ = Qpc::parse(&damaged);
        }
    }
}

#[test]
fn the_descriptor_of_a_runtime_is_checked_too() {
    use crate::qpc::messages::{IoBinding, IoSet};
    let io = |index, dir| IoBinding {
        name: format!("b{index}"),
        index,
        kind: 11,
        dir,
        dims: vec![2, 3],
        is_partial_buf_allowed: true,
    };
    let of = |bindings| {
        let selected_set = Some(IoSet { bindings });
        IoDesc { selected_set, program_name: "p".into(), allowed_shapes: vec![] }.encode_to_vec()
    };
    let interface = io_descriptor(&of(vec![io(0, 0), io(1, 1)])).unwrap();
    assert_eq!(interface.bindings[0].elem, Elem::Bf16);
    assert_eq!(interface.bindings[1].direction, Direction::Output);
    assert!(io_descriptor(&of(vec![io(1, 0)])).unwrap_err().to_string().contains("has number 1"));
    assert!(io_descriptor(&[]).unwrap_err().to_string().contains("no set of bindings is selected"));
}
