#!/usr/bin/env python3
"""Write the seeds of the fuzz targets: small files that are sound, and some that are nearly so.

    make_seeds.py            # into seeds/ beside this script

harness.rs says what the files of a seed are and what stands between them.
"""
import base64
import json
import shutil
import struct
import zlib
from pathlib import Path

SEEDS = Path(__file__).parent / "seeds"
IMAGES = Path(__file__).parent / "../tests/fixtures/vision"
CUT = b"\n---\n"
SIZES = dict(F32=4, F16=2, BF16=2, I8=1, U8=1, I32=4, I64=8, F8_E4M3=1, F8_E5M2=1, F8_E8M0=1)


def header(tensors):
    """The header of tensors given as (name, type, shape)."""
    at, out = 0, {}
    for name, dtype, shape in tensors:
        size = SIZES[dtype]
        for dim in shape:
            size *= dim
        out[name] = dict(dtype=dtype, shape=list(shape), data_offsets=[at, at + size])
        at += size
    return json.dumps(out, separators=(",", ":")).encode(), at


def file(tensors, cut=0):
    text, size = header(tensors)
    data = bytes(i * 37 % 251 for i in range(size))
    return struct.pack("<Q", len(text)) + text + data[:len(data) - cut]


def index(**files):
    return json.dumps(dict(metadata={}, weight_map=files)).encode()


def text(string):
    return struct.pack("<Q", len(string)) + string.encode()


def gguf(metadata, tensors, data, version=3):
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    for key, kind, value in metadata:
        out += text(key) + struct.pack("<I", kind) + value
    for name, dims, kind, at in tensors:
        out += text(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims) + struct.pack("<IQ", kind, at)
    return out + bytes(-len(out) % 32) + bytes(i * 31 % 253 for i in range(data))


def compressed(fmt, **weights):
    return dict(quant_method="compressed-tensors", format=fmt, quantization_status="compressed", ignore=["lm_head", "re:.*gate$"],
                config_groups={"group_0": dict(targets=["Linear"], weights=dict(dict(num_bits=8, type="int", symmetric=True), **weights))})


def quantised(name, config, tensors, data=bytes(range(1, 120, 7))):
    text, _ = header([*tensors, ("norm.weight", "BF16", [5])])
    write("quantised", name, json.dumps(dict(quantization_config=config)).encode(), text, data)


def varint(number):
    out = b""
    number &= (1 << 64) - 1
    while True:
        number, low = number >> 7, number & 127
        out += bytes([low | 128 if number else low])
        if not number:
            return out


def message(*fields):
    """Protobuf: fields as (number, value), a value an integer, a text or the bytes of another message."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            value = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(value)) + value
    return out


def container(segments, base=0, align=8):
    """A QPC of (name, bytes)."""
    head, table, out = 40, b"", b""
    start = head + 32 * len(segments)
    for name, data in segments:
        places = []
        for piece in (name.encode() + b"\0", data):
            out += bytes(-(start + len(out)) % align)
            places.append(base + start + len(out))
            out += piece
        table += struct.pack("<4Q", len(data), 0, *places)
    return struct.pack("<IBBH4Q", 0x00A1CD7C, 0, 1, 1, start + len(out), base, len(segments), base + head) + table + out


def network(inputs, outputs, rows=(), cores=16):
    """networkdesc.bin of bindings (name, type, dims, partial) and rows of (type, dims)."""
    form = lambda kind, dims: message((1, kind), (4, b"".join(map(varint, dims))))
    binding = lambda name, kind, dims, partial: message((1, name), (2, form(kind, dims)), (3, form(kind, dims)), (5, partial))
    shapes = lambda row: message(*((1, message((1, kind), (2, b"".join(map(varint, dims))))) for kind, dims in row))
    return message((1, 9), (3, "QAicGraph"), *((4, binding(*b)) for b in inputs), *((5, binding(*b)) for b in outputs),
                   (7, cores), (14, 1), *((18, shapes(row)) for row in rows))


def io_desc(bindings, selected=True):
    """IoDesc of bindings (name, type, direction, dims)."""
    all_of = [(2, message((1, name), (2, i), (3, kind), (4, way), (7, b"".join(map(varint, dims))), (10, 1)))
              for i, (name, kind, way, dims) in enumerate(bindings)]
    return message(*([(2, message((1, "default"), *all_of))] if selected else []), (3, "QAicGraph"))


def write(target, name, *files):
    (SEEDS / target / name).write_bytes(CUT.join(files))


MANIFEST = dict(name="acme", version="1.0.0", api="0.1.0", rustc="rustc 1.95.0", target="x86_64-unknown-linux-gnu", panic="unwind",
                architectures=[["AcmeForCausalLM"]], pooling=[], rewrites=["acme"], formats=[])


def elf(manifest=MANIFEST, symbols=("qeff_plugin_v1__acme",), needed=("libc.so.6",), extra=(), machine=62):
    """A shared object of one segment: symbols, names, dynamic table, note."""
    names = b"\0"

    def name(string):
        nonlocal names
        names += string.encode() + b"\0"
        return len(names) - len(string) - 1

    note = json.dumps(manifest).encode() if isinstance(manifest, dict) else manifest
    note += b" " * (-len(note) % 4)
    note = struct.pack("<III", 5, len(note), 1) + b"QEFF\0\0\0\0" + note
    syms = bytes(24) + b"".join(struct.pack("<IBBHQQ", name(s), 0x11, 0, 1, 0x1000, 512) for s in symbols)
    tags = [(1, name(n)) for n in needed] + [(tag, name(value) if isinstance(value, str) else value) for tag, value in extra]
    at = 64 + 4 * 56
    places = []
    dynamic = b"".join(struct.pack("<QQ", *tag) for tag in [*tags, (5, 0), (10, len(names)), (0, 0)])
    for part in (syms, names, dynamic, note):
        at += -at % 8
        places.append((at, len(part)))
        at += len(part)
    dynamic = b"".join(struct.pack("<QQ", *tag) for tag in [*tags, (5, places[1][0]), (10, len(names)), (0, 0)])
    out = bytearray(at)
    for (start, length), part in zip(places, (syms, names, dynamic, note)):
        out[start:start + length] = part
    section_names = b"\0.dynsym\0.dynstr\0.dynamic\0.note.qeff\0.shstrtab\0"
    names_at = len(out)
    out += section_names
    out += bytes(-len(out) % 8)
    table = len(out)
    kinds = [(1, 11, 0, 2, 24), (9, 3, 1, 0, 0), (17, 6, 2, 2, 16), (26, 7, 3, 0, 0)]
    out += bytes(64)
    for title, kind, which, link, entry in kinds:
        start, length = places[which]
        out += struct.pack("<IIQQQQIIQQ", title, kind, 2, start, start, length, link, 1 if kind == 11 else 0, 4 if kind == 7 else 8, entry)
    out += struct.pack("<IIQQQQIIQQ", 37, 3, 0, 0, names_at, len(section_names), 0, 0, 1, 0)
    out[:64] = b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, 64, table, 0, 64, 56, 4, 64, 6, 5)
    segments = [(1, 5, 0, len(out)), (2, 6, *places[2]), (4, 4, *places[3]), (0x6474e551, 6, 0, 0)]
    for i, (kind, flags, start, length) in enumerate(segments):
        out[64 + 56 * i:64 + 56 * (i + 1)] = struct.pack("<IIQQQQQQ", kind, flags, start, start, start, length, length, 8)
    return bytes(out)


# What tests/plugins/everything answers for a table of 5 rows of 3: its model in the wire form, with the fields it read.
ANSWER = zlib.decompress(base64.b64decode("""
eNp9UMFOwkAQTSnCdjQIG2MiCRqXeDGooLceazwavZlgTLNtB7rQbqFdQqLhwq/4Kf6Y7VINmuhpZ+e9N/PmwXuVAK3OcTSyP0y4BUvI2UK5IsigobgX4eUS
xThU3T6tnPXbLd27uos9DAIhx26fWd8fW8+BNuRMWgtFEKBktYeFyiduMFqNuZDnj2SHmE3D+bVhcggkSnyuRCIp+CH601kipJocw26hLol0f8m2hWxmDHtb
xukJdEidHsEeBY8rP3Qz8Ypg0XqGczdCORxAgyuFsljkxjybaonxj8S7gPIg2oXTnNr5kwoVYq6NfSDaMvcVNUc312sDAXQnTSLM6NMb04YzZpdVYZ3ZTCVT
lBnrsZ8Oc0Q/qx5LdKBaWGZsfxWrlVNpthwCOu2mkTbL5LI8zZhTY5B2oLUxlvqhUOirRYqUOHx8nwQYpQdgaVgVqdRR+nk3pdYzW4pAhezlEyWgpw8=
"""))


def answers():
    tensor = message((1, "table.weight"), (2, 2), (3, 5), (3, 3))
    tensors = message((2, message((1, tensor), (2, 12), (3, 15), (4, "plus-one"))))
    return {
        "model": ANSWER, "reply": message((1, ANSWER)), "cut": ANSWER[:-30], "more": message((1, 4096)), "tensors": tensors,
        "reply-tensors": message((1, tensors)), "error": message((2, message((1, "no")))),
        "config-error": message((2, message((2, "a"), (2, "b"), (2, "c")))),
        "panic": message((2, message((1, "no"), (3, "lib.rs:1")))), "empty": b"", "without-model": message((2, "[]")),
    }


def main():
    shutil.rmtree(SEEDS, ignore_errors=True)
    for target in ("image", "safetensors", "gguf", "quantised", "qpc", "plugin_answer", "plugin_file"):
        (SEEDS / target).mkdir(parents=True)

    for name, answer in answers().items():
        write("plugin_answer", name, answer)
    write("plugin_file", "sound", elf())
    write("plugin_file", "cut", elf()[:-100])
    write("plugin_file", "two-symbols", elf(symbols=("qeff_plugin_v1__a", "qeff_plugin_v1__b")))
    write("plugin_file", "no-symbol", elf(symbols=("main",)))
    write("plugin_file", "other-epoch", elf(symbols=("qeff_plugin_v2__a",)))
    write("plugin_file", "needs", elf(needed=("libc.so.6", "libevil.so")))
    write("plugin_file", "runpath", elf(extra=[(29, "/tmp")]))
    write("plugin_file", "audit", elf(extra=[(0x6ffffefc, "/tmp/a.so")]))
    write("plugin_file", "other-machine", elf(machine=183))
    write("plugin_file", "name-of-a-path", elf(dict(MANIFEST, name="../acme")))
    write("plugin_file", "no-json", elf(b"hello"))

    two = [("a", "F32", [2, 3]), ("b", "F8_E4M3", [5]), ("c", "I64", [])]
    write("safetensors", "sound", file(two))
    write("safetensors", "cut", file(two, cut=3))
    write("safetensors", "empty", struct.pack("<Q", 2) + b"{}")
    write("safetensors", "scale-without-config", file([("x.weight", "F8_E4M3", [2, 2]), ("x.weight_scale", "F32", [1])]))
    write("safetensors", "shards", index(a="a.safetensors", b="b.safetensors"), file([("a", "F16", [3])]), file([("b", "BF16", [1, 2])]))
    write("safetensors", "shards-that-lie", index(a="a.safetensors", b="../b.safetensors"), file([("a", "F16", [3])]))
    write("safetensors", "shards-twice", index(a="a.safetensors", b="b.safetensors"), file([("a", "U8", [1])]), file([("a", "U8", [1]), ("b", "U8", [1])]))

    metadata = [("general.architecture", 8, text("llama")), ("general.alignment", 4, struct.pack("<I", 32)), ("x", 6, struct.pack("<f", 0.5)),
                ("tokens", 9, struct.pack("<IQ", 8, 2) + text("a") + text("bc")), ("flags", 9, struct.pack("<IQ", 7, 2) + b"\0\1"),
                ("nested", 9, struct.pack("<IQ", 9, 1) + struct.pack("<IQ", 0, 3) + b"\1\2\3")]
    blocks = [(2, 32, 18), (3, 32, 20), (6, 32, 22), (7, 32, 24), (8, 32, 34), (10, 256, 84), (11, 256, 110), (12, 256, 144), (13, 256, 176),
              (14, 256, 210), (15, 256, 292), (20, 32, 18), (23, 256, 136), (39, 32, 17), (0, 3, 12), (1, 3, 6), (30, 3, 6), (24, 3, 3), (16, 256, 66)]
    tensors, at = [], 0
    for kind, elements, size in blocks:
        tensors.append((f"t{kind}", [elements, 1], kind, at))
        at += size + -size % 32
    write("gguf", "every-type", gguf(metadata, tensors, at))
    write("gguf", "version-2", gguf(metadata[:2], tensors[:2], 96, version=2))
    write("gguf", "metadata", gguf(metadata, [], 0))
    write("gguf", "rows", gguf(metadata[:2], [("r", [64, 3, 2], 2, 0)], 12 * 18))
    write("gguf", "cut", gguf(metadata, tensors, at)[:-40])
    write("gguf", "past-the-end", gguf(metadata[:1], [("t", [32], 8, 64)], 34))

    awq = [("m.qweight", "I32", [32, 2]), ("m.qzeros", "I32", [2, 2]), ("m.scales", "F16", [2, 16])]
    quantised("awq", dict(quant_method="awq", bits=4, group_size=16, zero_point=True, version="gemm"), awq)
    quantised("awq-gemv", dict(quant_method="awq", bits=4, group_size=32, version="gemv"),
              [("m.qweight", "I32", [8, 8]), ("m.qzeros", "I32", [8, 4]), ("m.scales", "F16", [8, 32])])
    for bits, words in ((2, 2), (3, 3), (4, 4), (8, 8)):
        quantised(f"gptq-{bits}", dict(quant_method="gptq", bits=bits, group_size=16, checkpoint_format="gptq"),
                  [("m.qweight", "I32", [words, 32]), ("m.qzeros", "I32", [2, words]), ("m.scales", "F16", [2, 32])])
    quantised("gptq-act-order", dict(quant_method="gptq", bits=4, group_size=16, desc_act=True, checkpoint_format="gptq_v2"),
              [("m.g_idx", "I32", [32]), ("m.qweight", "I32", [4, 8]), ("m.qzeros", "I32", [2, 1]), ("m.scales", "F16", [2, 8])],
              data=b"\0\0\0\0\1\0\0\0" * 16)
    quantised("ct-int4", compressed("pack-quantized", num_bits=4, strategy="group", group_size=16),
              [("m.weight_shape", "I64", [2]), ("m.weight_packed", "I32", [1, 4]), ("m.weight_scale", "BF16", [1, 2])],
              data=b"\1\0\0\0\0\0\0\0\x20\0\0\0\0\0\0\0" + bytes(range(100)))
    quantised("ct-int4-asymmetric", compressed("pack-quantized", num_bits=4, strategy="channel", symmetric=False),
              [("m.weight_shape", "I64", [2]), ("m.weight_packed", "I32", [1, 4]), ("m.weight_scale", "BF16", [1, 1]),
               ("m.weight_zero_point", "I32", [1, 1])], data=b"\1\0\0\0\0\0\0\0\x20\0\0\0\0\0\0\0" + bytes(range(100)))
    quantised("ct-int8", compressed("int-quantized", strategy="channel", symmetric=False),
              [("m.weight", "I8", [4, 16]), ("m.weight_scale", "BF16", [4, 1]), ("m.weight_zero_point", "I8", [4, 1])])
    quantised("ct-fp8", compressed("float-quantized", type="float", strategy="tensor"), [("m.weight", "F8_E4M3", [4, 5]), ("m.weight_scale", "F32", [1])])
    quantised("ct-block", compressed("naive-quantized", type="float", strategy="block", block_structure=[3, 4]),
              [("m.weight", "F8_E4M3", [4, 5]), ("m.weight_scale", "F32", [2, 2])])
    quantised("fp8-block", dict(quant_method="fp8", weight_block_size=[3, 4]), [("m.weight", "F8_E4M3", [4, 5]), ("m.weight_scale_inv", "F32", [2, 2])])
    quantised("fp8-static", dict(quant_method="fp8", activation_scheme="static", ignored_layers=["lm_head"]),
              [("m.weight", "F8_E4M3", [4, 5]), ("m.weight_scale", "F32", []), ("m.input_scale", "F32", [])])
    quantised("fbgemm", dict(quant_method="fbgemm_fp8"), [("m.weight", "F8_E4M3", [4, 5]), ("m.weight_scale", "F32", [4, 1])])
    quantised("mxfp4", dict(quant_method="mxfp4"), [("m_blocks", "U8", [2, 3, 2, 16]), ("m_scales", "U8", [2, 3, 2])])
    quantised("left-over", dict(quant_method="awq", bits=4, group_size=16), awq[1:])

    state = ("past_key.0", 1, [1, 2, 8, 4], 1)
    inputs = [("input_ids", 7, [1, 4], 0), ("position_ids", 7, [1, 4], 0), state]
    outputs = [("logits", 0, [1, 1, 9], 0), ("past_key.0_RetainedState", 1, [1, 2, 8, 4], 1)]
    row = lambda n: [(7, [1, n]), (7, [1, n]), (1, [1, 2, 8, 4]), (0, [1, 1, 9]), (1, [1, 2, 8, 4])]
    sound = network(inputs, outputs, [row(4), row(1)])
    segments = [("constantsdesc.bin", bytes(24)), ("network.elf", b"\x7fELF"), ("networkdesc.bin", sound)]
    write("qpc", "sound", container(segments))
    write("qpc", "heap-base", container(segments, base=0x7F0000001000))
    write("qpc", "unaligned", container(segments, align=1))
    write("qpc", "cut", container(segments)[:-8])
    write("qpc", "one-specialization", container([("networkdesc.bin", network(inputs, outputs))]))
    write("qpc", "short-row", container([("networkdesc.bin", network(inputs, outputs, [row(1)[1:]]))]))
    write("qpc", "negative-dims", container([("networkdesc.bin", network([("x", 7, [-1, 4], 0)], outputs))]))
    write("qpc", "cards", container([("mdp_meta_info", b"{}")] + [(f"QAicGraph_slice{i:02}", container(segments)) for i in (1, 0)]))
    write("qpc", "cards-with-a-gap", container([("mdp_meta_info", b"{}"), ("QAicGraph_slice01", container(segments))]))
    write("qpc", "io-descriptor", io_desc([("input_ids", 7, 0, [1, 4]), ("x_InternalRetainedState", 11, 1, [2])]))
    write("qpc", "io-descriptor-without-a-set", io_desc([], selected=False))

    # Images of the tests: each form of file, and one that is cut off.
    for name in ("grey.png", "palette-clear.png", "rgba16.png", "turned.jpg", "jpeg/411.jpg", "jpeg/cmyk.jpg", "jpeg/ycck.jpg",
                 "jpeg/progressive-422.jpg", "jpeg/restarts-444.jpg"):
        data = (IMAGES / name).read_bytes()
        write("image", Path(name).stem, data)
    write("image", "cut", data[:-40])
    palette = (IMAGES / "palette-clear.png").read_bytes()
    at = palette.index(b"PLTE")
    length = int.from_bytes(palette[at - 4:at], "big") + 1
    chunk = palette[at:at + 4 + length - 1] + b"\0"
    write("image", "palette-of-a-third", palette[:at - 4] + struct.pack(">I", length) + chunk + struct.pack(">I", zlib.crc32(chunk))
          + palette[at + length + 7:])


if __name__ == "__main__":
    main()
