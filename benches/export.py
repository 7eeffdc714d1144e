#!/usr/bin/env python3
"""Export against `cp` of the same bytes, and against other exporters where they are installed.

    benches/export.py --dir DIR                             125M, 350M and 1.1B parameters, f32; 70B and 405B linked
    benches/export.py --dir DIR --sizes 350m --rounds 9
    benches/export.py --dir DIR --checkpoint PATH           a checkpoint of yours instead
    benches/export.py --dir DIR --also 'int4=--target cpu --weights int4'

Checkpoints are made in DIR: Llamas of random weights, written once and kept for the next time, and for the largest ones
files that have a header and no bytes (sparse, so they take no room). Everything is timed from the start of the process to its
end, in rounds, one command after the other in each, so that a busy minute hits all of them; the medians decide.

Peak memory is the kernel's figure for the process, mapped pages counted. `cp` does not wait for the disk, and neither does an
export without --sync. Peers, each left out unless it is named:

    --genai PYTHON       an interpreter with onnxruntime-genai
    --optimum COMMAND    optimum-cli
    --reference PYTHON   an interpreter with QEfficient

Only the standard library is needed.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# hidden, layers, heads, key heads, inner, vocabulary
SHAPES = {
    "125m": (768, 12, 12, 4, 2048, 32000),
    "350m": (1024, 22, 16, 16, 2816, 32000),
    "1b": (2048, 22, 32, 4, 5632, 32000),
    "70b": (8192, 80, 64, 8, 28672, 128256),
    "405b": (16384, 126, 128, 8, 53248, 128256),
}
FULL = ["125m", "350m", "1b"]
SPARSE = ["70b", "405b"]
# A shard of a large checkpoint, as downloads have them.
SHARD = 5_000_000_000


# --- checkpoints


def config(shape, dtype):
    hidden, layers, heads, key_heads, inner, vocabulary = shape
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": key_heads, "head_dim": hidden // heads, "intermediate_size": inner,
        "vocab_size": vocabulary, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": False, "torch_dtype": dtype, "bos_token_id": 1, "eos_token_id": 2,
    }


def tensors(shape):
    hidden, layers, heads, key_heads, inner, vocabulary = shape
    keys = hidden // heads * key_heads
    yield "model.embed_tokens.weight", [vocabulary, hidden]
    for layer in range(layers):
        at = f"model.layers.{layer}"
        yield f"{at}.input_layernorm.weight", [hidden]
        yield f"{at}.self_attn.q_proj.weight", [hidden, hidden]
        yield f"{at}.self_attn.k_proj.weight", [keys, hidden]
        yield f"{at}.self_attn.v_proj.weight", [keys, hidden]
        yield f"{at}.self_attn.o_proj.weight", [hidden, hidden]
        yield f"{at}.post_attention_layernorm.weight", [hidden]
        yield f"{at}.mlp.gate_proj.weight", [inner, hidden]
        yield f"{at}.mlp.up_proj.weight", [inner, hidden]
        yield f"{at}.mlp.down_proj.weight", [hidden, inner]
    yield "model.norm.weight", [hidden]
    yield "lm_head.weight", [vocabulary, hidden]


def header(part, dtype, size):
    entries, end = {"__metadata__": {"format": "pt"}}, 0
    for name, dims in part:
        begin = end
        count = size
        for dim in dims:
            count *= dim
        end += count
        entries[name] = {"dtype": dtype, "shape": dims, "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, end


def make_full(place, shape):
    """One file of f32, numbers of either sign below 2 that no file system compresses."""
    head, length = header(list(tensors(shape)), "F32", 4)
    source = random.Random(0)
    # The upper byte of a number is its sign and exponent.
    below_two = bytes(0x3F | byte & 0x80 for byte in range(256))
    with open(place / "model.safetensors.new", "wb") as file:
        file.write(head)
        while length > 0:
            numbers = bytearray(source.randbytes(min(length, 16 << 20)))
            numbers[3::4] = numbers[3::4].translate(below_two)
            file.write(numbers)
            length -= len(numbers)
    os.replace(place / "model.safetensors.new", place / "model.safetensors")
    (place / "config.json").write_text(json.dumps(config(shape, "float32"), indent=2))


def make_sparse(place, shape):
    """Shards of bf16 that have headers and no bytes."""
    shards, size = [[]], 0
    for name, dims in tensors(shape):
        bytes_ = 2 * dims[0] * (dims[1] if len(dims) > 1 else 1)
        if shards[-1] and size + bytes_ > SHARD:
            shards.append([])
            size = 0
        shards[-1].append((name, dims))
        size += bytes_
    weights = {}
    for number, part in enumerate(shards, 1):
        file_name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        head, length = header(part, "BF16", 2)
        with open(place / file_name, "wb") as file:
            file.write(head)
            file.truncate(len(head) + length)
        weights |= {name: file_name for name, _ in part}
    (place / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))
    (place / "config.json").write_text(json.dumps(config(shape, "bfloat16"), indent=2))


def checkpoint(place, size):
    path = place / f"llama-{size}"
    if not (path / "config.json").exists():
        print(f"making {path.name}", flush=True)
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        # Not this model's, but other exporters will not begin without one.
        for file in (ROOT / "demo/kjv-1.7m").glob("tokenizer*.json"):
            shutil.copy(file, path)
        (make_full if size in FULL else make_sparse)(path, SHAPES[size])
    return path


# --- measuring


def measure(command, output, environment):
    """Seconds, peak bytes and bytes in `output`, which is empty before."""
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    log = output.with_suffix(".log")
    with open(log, "w") as sink:
        begun = time.perf_counter()
        child = subprocess.Popen(command, stdout=sink, stderr=sink, env=os.environ | environment)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - begun
    if status != 0:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{log.read_text()[-2000:]}")
    # Links are no copies: neither a second name of a file nor a path to one.
    written = sum(
        meta.st_size
        for folder, _, names in os.walk(output)
        for meta in (os.lstat(os.path.join(folder, name)) for name in names)
        if meta.st_nlink == 1 and not os.path.stat.S_ISLNK(meta.st_mode)
    )
    return seconds, usage.ru_maxrss * 1024, written


def compare(commands, rounds, scratch, base):
    """Runs every command in every round and prints medians, and their ratio to that of `base`."""
    results = {label: [] for label, _, _ in commands}
    for _ in range(rounds):
        for label, command, environment in commands:
            results[label].append(measure(command, scratch / "output", environment))
    shutil.rmtree(scratch / "output")
    median = {label: statistics.median(run[0] for run in runs) for label, runs in results.items()}
    print(f"{'':<24} {'seconds (least – most)':>26} {'peak MB':>9} {'written MB':>11} {f'/ {base}' if base else '':>7}")
    for label, runs in results.items():
        seconds = [run[0] for run in runs]
        spread = f"{median[label]:.3f} ({min(seconds):.3f} – {max(seconds):.3f})"
        ratio = f"{median[label] / median[base]:.2f}" if base else ""
        print(f"{label:<24} {spread:>26} {max(run[1] for run in runs) / 1e6:>9.0f} {runs[-1][2] / 1e6:>11.1f} {ratio:>7}")
    print(flush=True)


def exports(binary, model, output, also):
    def export(words):
        return [binary, "export", "--model", model, "--output", output, *words.split()]

    rows = {
        "packed, cpu": "--target cpu",
        "packed, aic": "--target aic",
        "linked, cpu": "--target cpu --storage linked",
        "linked, aic": "--target aic --storage linked",
    }
    return [(label, export(words), {}) for label, words in (rows | also).items()]


def peers(options, model, output):
    if options.genai:
        for kind in ["fp32", "int4"]:
            builder = ["-m", "onnxruntime_genai.models.builder", "-i", model, "-o", output, "-p", kind, "-e", "cpu"]
            yield f"genai, {kind}", [options.genai, *builder, "-c", output / "cache"], {"HF_HUB_OFFLINE": "1"}
    if options.optimum:
        task = ["--task", "text-generation-with-past"]
        yield "optimum", [options.optimum, "export", "onnx", "--model", model, *task, output], {}
    if options.reference:
        code = "import sys; from QEfficient import QEFFAutoModelForCausalLM as M; M.from_pretrained(sys.argv[1]).export()"
        yield "reference", [options.reference, "-c", code, model], {"QEFF_HOME": str(output)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, required=True, help="folder for checkpoints and exports; wants a real disk")
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/qeff-host")
    parser.add_argument("--sizes", nargs="*", default=FULL + SPARSE, choices=list(SHAPES))
    parser.add_argument("--checkpoint", type=Path, action="append", default=[], help="one of yours, instead of sizes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--also", action="append", default=[], metavar="LABEL=FLAGS", help="another export; repeatable")
    parser.add_argument("--genai", metavar="PYTHON")
    parser.add_argument("--optimum", metavar="COMMAND")
    parser.add_argument("--reference", metavar="PYTHON")
    options = parser.parse_args()
    also = dict(row.split("=", 1) for row in options.also)
    scratch = options.dir.resolve()
    binary = options.binary.resolve()
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, load {load:.1f} before\n")

    sizes = [] if options.checkpoint else options.sizes
    full = [(path.name, path.resolve()) for path in options.checkpoint]
    full += [(f"llama-{size}", checkpoint(scratch, size)) for size in sizes if size in FULL]
    output = scratch / "output"
    for name, model in full:
        files = sorted(model.glob("*.safetensors"))
        print(f"{name}: {sum(file.stat().st_size for file in files) / 1e6:.0f} MB")
        commands = [("cp", ["cp", *files, output], {}), *exports(binary, model, output, also)]
        commands += peers(options, model, output)
        compare(commands, options.rounds, scratch, "cp")
    for size in (size for size in sizes if size in SPARSE):
        model = checkpoint(scratch, size)
        stored = sum(file.stat().st_size for file in model.glob("*.safetensors"))
        print(f"llama-{size}: {stored / 1e9:.0f} GB, none of them on the disk")
        rows = [row for row in exports(binary, model, output, {}) if row[0] == "linked, aic"]
        nodes = "--target cpu --storage linked --remainder nodes"
        rows += [("linked, cpu, nodes", [binary, "export", "--model", model, "--output", output, *nodes.split()], {})]
        compare(rows, options.rounds, scratch, None)


if __name__ == "__main__":
    main()
