use super::*;
use crate::qpc::network::{Binding, Elem, Network};

/// A container of 632 bytes, made by these rules and by hand, that the parser of Qualcomm's open runtime accepts; beside it
/// stood what that parser lists.
const VECTOR: &str = "\
fM2hAAABAQB4AgAAAAAAAAAAAAAAAAAABAAAAAAAAAAoAAAAAAAAABgAAAAAAAAAAAAAAAAAAACoAAAAAAAAAPAAAAAAAAAABwAA\
AAAAAAAAAAAAAAAAAMAAAAAAAAAACAEAAAAAAABaAQAAAAAAAAAAAAAAAAAA0AAAAAAAAAAQAQAAAAAAAAIAAAAAAAAAAAAAAAAA\
AADgAAAAAAAAAHACAAAAAAAAY29uc3RhbnRzZGVzYy5iaW4AAAAAAAAAbmV0d29yay5lbGYAAAAAAG5ldHdvcmtkZXNjLmJpbgBx\
ZWZmc2ltLmpzb24AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAf0VMRnNpbQAICRoJUUFpY0dyYXBoIiUKCWlucHV0X2lkcxIL\
CAcVAACAPyICASAaCwgHFQAAgD8iAgEgIigKDHBvc2l0aW9uX2lkcxILCAcVAACAPyICASAaCwgHFQAAgD8iAgEgIi4KCnBhc3Rf\
a2V5LjASDggBFQAAgD8iBQECgAEQGg4IARUAAIA/IgUBAoABECgBKiQKBmxvZ2l0cxIMCAAVAACAPyIDAQFkGgwIABUAAIA/IgMB\
AWQqPAoYcGFzdF9rZXkuMF9SZXRhaW5lZFN0YXRlEg4IARUAAIA/IgUBAoABEBoOCAEVAACAPyIFAQKAARAoATgQcAGSAS8KBggH\
EgIBIAoGCAcSAgEgCgkIARIFAQKAARAKBwgAEgMBAWQKCQgBEgUBAoABEJIBLwoGCAcSAgEBCgYIBxICAQEKCQgBEgUBAoABEAoH\
CAASAwEBZAoJCAESBQECgAEQAAAAAAAAe30AAAAAAAA=";

fn vector() -> Vec<u8> {
    base64::decode(VECTOR).expect("base64")
}

/// The program in the vector.
fn network() -> Network {
    let kv = [1, 2, 128, 16];
    let binding = |name: &str, output, elem, dims: &[usize], partial| Binding {
        name: name.into(),
        output,
        elem,
        dims: dims.to_vec(),
        partial,
    };
    let row = |ids: usize| vec![vec![1, ids], vec![1, ids], kv.to_vec(), vec![1, 1, 100], kv.to_vec()];
    Network {
        name: "QAicGraph".into(),
        cores: 16,
        bindings: vec![
            binding("input_ids", false, Elem::I64, &[1, 32], false),
            binding("position_ids", false, Elem::I64, &[1, 32], false),
            binding("past_key.0", false, Elem::F16, &kv, true),
            binding("logits", true, Elem::F32, &[1, 1, 100], false),
            binding("past_key.0_RetainedState", true, Elem::F16, &kv, true),
        ],
        rows: vec![row(32), row(1)],
    }
}

#[test]
fn byte_for_byte() {
    let descriptor = network().encode();
    let segments = [
        Segment { name: "constantsdesc.bin", bytes: &[0; 24] },
        Segment { name: "network.elf", bytes: b"\x7fELFsim" },
        Segment { name: "networkdesc.bin", bytes: &descriptor },
        Segment { name: "qeffsim.json", bytes: b"{}" },
    ];
    assert_eq!(write(&segments), vector());
    assert_eq!(read(&vector()).expect("a container"), segments);
    assert_eq!(Network::decode(&descriptor).expect("a descriptor"), network());
    assert_eq!(network().io_desc().len(), 492);
}

#[test]
fn addresses_count_from_the_base() {
    // As the other writer leaves it: base and every address shifted by where the file was in memory.
    let mut moved = vector();
    let shift = |file: &mut Vec<u8>, at: usize| {
        let number = u64::from_le_bytes(file[at..at + 8].try_into().expect("8 bytes"));
        file[at..at + 8].copy_from_slice(&(number + 0x7f00_0000_1000).to_le_bytes());
    };
    [16, 32].into_iter().for_each(|at| shift(&mut moved, at));
    (0..4).flat_map(|i| [40 + 32 * i + 16, 40 + 32 * i + 24]).for_each(|at| shift(&mut moved, at));
    assert_eq!(read(&moved).expect("a container"), read(&vector()).expect("a container"));
}

#[test]
fn what_is_not_opened() {
    let said = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut file = vector();
        change(&mut file);
        read(&file).expect_err("a refusal").to_string()
    };
    assert!(said(&|file| file.truncate(624)).contains("the header says 632 bytes"));
    assert!(said(&|file| file.truncate(20)).contains("magic"));
    assert!(said(&|file| file[0] = 0).contains("magic"));
    assert!(said(&|file| file[6] = 0).contains("compression type 0"));
    assert!(said(&|file| file[24..32].fill(0xff)).contains("cannot be in 632 bytes"));
    assert!(said(&|file| file[40..48].fill(0xff)).contains("cut short"));
    assert!(said(&|file| file[56..64].fill(0xff)).contains("outside"));
}
