#!/usr/bin/env python3
"""Exports fixtures with qeff-host and holds every file to two independent judges.

    onnx_check.py BINARY [--only TEXT]

1. The ONNX checker, with strict shape inference, reads the file and its external data. (The version in requirements.txt
   follows links; later ones refuse them, see docs/src/reference/engines.md.)
2. ONNX Runtime executes it, and the logits must be those of Hugging Face (tests/fixtures/README.md): within TOLERANCE of the
   largest logit, and the same greedy ids wherever the margin is no near-tie.

Both targets are executed. A file for `aic` is standard ONNX but for one thing: INT32_MAX as a row number means "no row" to
the compiler and is out of range to ONNX Runtime, so it is replaced by 0 before loading. Rows read so are masked. A *write*
so marked would land on row 0, so batched files of `aic` are run without padding.

A linked file for `aic` has weights as inputs; they are bound as its weight spec says, to the bytes of the checkpoint.

States start full of rubbish, because what is never written must not matter: NaN for `aic`, which promises that much, and a large
number for `cpu`, whose states come zeroed from its runtime. A state of `cpu` has one row more than positions.

A rolling state has as many rows as its window and the widest call take, so positions take each other's rows.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parent.parent
TOLERANCE = 1e-4
# What f16 activations leave of a few layers.
F16_TOLERANCE = 5e-3
INVALID = 2**31 - 1
FIXTURES = [
    "tests/fixtures/llama/base",
    "tests/fixtures/llama/one-kv-head",
    "tests/fixtures/llama/tied",
    "tests/fixtures/llama/bias",
    "tests/fixtures/llama/rope-llama3",
    "tests/fixtures/mistral/sliding",
    "tests/fixtures/gpt_oss/base",
    "tests/fixtures/gpt_oss/one-kv-head",
    "tests/fixtures/gpt_oss/all-experts",
    "tests/fixtures/gpt2/base",
    "tests/fixtures/gpt2/no-prefix",
    "demo/kjv-1.7m",
]
# Checkpoints whose weights stay quantised: blocks of four bits and of eight, with zero points, shifts and an order of columns.
# What was recorded of them are the logits of greedy steps.
QUANTISED = [
    "tests/fixtures/gguf/llama-q4_0/model.gguf",
    "tests/fixtures/gguf/llama-mixed/model.gguf",
    "tests/fixtures/gguf/qwen2-q4_0/model.gguf",
    "tests/fixtures/gguf/qwen3-q4_1/model.gguf",
    "tests/fixtures/gguf/gpt2-q8_0/model.gguf",
    "tests/fixtures/quantised/awq",
    "tests/fixtures/quantised/gptq-act-order-symmetric",  # with `g_idx`, ONNX Runtime takes every zero point for 8
    "tests/fixtures/quantised/gptq-8-bits",
    "tests/fixtures/quantised/ct-int4",
    "tests/fixtures/quantised/ct-int8",
    "tests/fixtures/quantised/fp8-block",
]
TARGETS = ["cpu", "aic"]
SLOTS = 3
# Tokens of a padded call, and of a speculative step.
CHUNK, DRAFT = 8, 4
FLAGS = {
    "plain": [],
    "cb": ["--full-batch-size", str(SLOTS)],
    "last-k": ["--num-logits-to-keep", str(DRAFT)],
    "ccl": ["--ccl-enabled"],
    "cb+ccl": ["--full-batch-size", str(SLOTS), "--ccl-enabled"],
    "cb+last-k": ["--full-batch-size", str(SLOTS), "--num-logits-to-keep", str(DRAFT)],
    "linked": ["--storage", "linked", "--remainder", "nodes"],
    "f16": ["--dtype", "f16"],
    "f16+cb": ["--dtype", "f16", "--full-batch-size", str(SLOTS)],
}


def variants(name: str, target: str) -> list:
    """What is exported of a model."""
    if name not in FIXTURES:
        return ["plain", "cb"]
    left_out = set()
    if target == "cpu":
        left_out |= {"ccl", "f16"}  # Refused: there a state is as long as a request needs, and numbers are f32.
    if "gpt_oss" in name:
        left_out.add("f16")  # Refused: experts are in f32 only.
    return [variant for variant in FLAGS if not left_out & set(variant.split("+"))]


# --- what is expected


@dataclass
class Case:
    """A prompt and what Hugging Face answers. The logits are None where only ids were recorded."""

    name: str
    prompt: list
    greedy: list
    margins: list
    prompt_logits: np.ndarray | None
    step_logits: np.ndarray | None

    @property
    def length(self):
        return len(self.prompt) + len(self.greedy)

    def tokens(self, start, stop):
        return (self.prompt + self.greedy)[start:stop]


def read_cases(model: Path):
    beside = model / "expected.json"
    path = beside if beside.exists() else model.parent / "expected.json"
    tensors = path.with_suffix(".safetensors")
    tensors = load_file(tensors) if tensors.exists() else {}
    return [
        Case(
            str(i), case["prompt_ids"], case["greedy_ids"], case["margins"],
            tensors.get(f"{i}.logits"), tensors.get(f"{i}.step_logits"),
        )
        for i, case in enumerate(json.loads(path.read_text())["cases"])
    ]


@dataclass
class Judge:
    """Collects what was compared in one run of a file."""

    tolerance: float = TOLERANCE
    worst: float = 0.0
    logits: int = 0
    ids: int = 0
    errors: list = field(default_factory=list)

    def rows(self, case: Case, position: int, rows: np.ndarray):
        """Rows of logits that follow tokens `position`, `position + 1`, … of prompt and continuation."""
        for place, row in enumerate(rows, start=position):
            step = place - len(case.prompt) + 1
            self.row(case, place, step, row)

    def row(self, case: Case, place: int, step: int, row: np.ndarray):
        where = f"prompt {case.name}, after token {place}"
        if not np.isfinite(row).all():
            self.errors.append(f"{where}: logits are not finite")
            return
        expected, largest = None, np.abs(row).max()
        if case.step_logits is not None:
            largest = np.abs(case.step_logits).max()
            prompt = case.prompt_logits
            expected = case.step_logits[step] if step >= 0 else None if prompt is None else prompt[place]
        if expected is not None:
            self.logits += 1
            worst = float(np.abs(row - expected).max() / largest)
            self.worst = max(self.worst, worst)
            if worst > self.tolerance:
                self.errors.append(f"{where}: logits differ by {worst:.2e} of the largest")
        if step >= 0 and case.margins[step] > 2 * self.tolerance * largest:
            self.ids += 1
            if int(row.argmax()) != case.greedy[step]:
                self.errors.append(f"{where}: id {row.argmax()}, expected {case.greedy[step]}")


# --- execution


def load(path: Path, target: str):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if target == "aic":
        return onnxruntime.InferenceSession(without_invalid(path), options, ["CPUExecutionProvider"])
    return onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])


def bind(model: onnx.ModelProto, folder: Path):
    """Makes initializers of the inputs that the model's weight spec binds to stored tensors."""
    (spec,) = [json.loads(entry.value) for entry in model.metadata_props if entry.key == "com.qti.aisw.extdata"]
    if spec != json.loads((folder / "weight_spec.json").read_text()):
        raise ValueError("weight_spec.json differs from the model's metadata")
    files = [(folder / file["path"]).read_bytes() for file in spec["files"]]
    headers = [json.loads(file[8 : 8 + int.from_bytes(file[:8], "little")]) for file in files]
    inputs = {put.name: put for put in model.graph.input}
    for bound in spec["inputs"]:
        put, number = inputs[bound["name"]], bound["location"]["file"]
        stored, data = headers[number][bound["location"]["key"]], files[number]
        dims = [dim.dim_value for dim in put.type.tensor_type.shape.dim]
        if dims != stored["shape"]:
            raise ValueError(f"input {put.name} is {dims}, stored as {stored['shape']}")
        begin = 8 + int.from_bytes(data[:8], "little")
        first, end = (begin + offset for offset in stored["data_offsets"])
        tensor = onnx.TensorProto(name=put.name, dims=dims, data_type=put.type.tensor_type.elem_type)
        tensor.raw_data = data[first:end]
        model.graph.initializer.append(tensor)
        model.graph.input.remove(put)


def without_invalid(path: Path) -> bytes:
    model = onnx.load(path)
    if any(entry.key == "com.qti.aisw.extdata" for entry in model.metadata_props):
        bind(model, path.parent)
    replaced = 0
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.INT64:
            values = onnx.numpy_helper.to_array(tensor)
            if (values == INVALID).any():
                replaced += 1
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.where(values == INVALID, 0, values), tensor.name))
    if replaced == 0:
        raise ValueError("no constant holds INT32_MAX, so reads of rows that hold nothing are not marked")
    return model.SerializeToString()


class Run:
    """A program with its states, fed back after every call."""

    def __init__(self, session, target: str, window: int | None, positions: int, widest: int):
        self.session = session
        self.outputs = [output.name for output in session.get_outputs()]
        self.inputs = {put.name for put in session.get_inputs()}
        lengths = {"ctx_len": positions, "sliding_window": min(positions, (window or 0) + widest - 1)}
        rubbish = np.nan if target == "aic" else 1e3
        self.states = {}
        for put in session.get_inputs():
            if f"{put.name}_RetainedState" in self.outputs:
                slots = SLOTS if put.shape[0] == "full_batch_size" else 1
                rows = lengths[put.shape[2]] + (target == "cpu")
                shape = [slots, put.shape[1], rows, put.shape[3]]
                self.states[put.name] = np.full(shape, rubbish, np.float16 if put.type == "tensor(float16)" else np.float32)

    def call(self, ids, positions, slots=None, keep=None):
        feeds = {"input_ids": np.array(ids, np.int64), "position_ids": np.array(positions, np.int64), **self.states}
        if slots is not None:
            feeds["batch_index"] = np.array(slots, np.int64)[:, None]
        if keep is not None:
            feeds["num_logits_to_keep"] = np.zeros((keep, 1), np.int64)
        if "comp_ctx_lengths" in self.inputs:
            # The shortest context that serves the call: what is behind it must not be looked at.
            feeds["comp_ctx_lengths"] = np.zeros(max(max(row) for row in positions) + 1, np.int64)
        if feeds.keys() != self.inputs:
            raise ValueError(f"inputs are {sorted(self.inputs)}, expected {sorted(feeds)}")
        results = dict(zip(self.outputs, self.session.run(self.outputs, feeds)))
        logits = results.pop("logits")
        shape = (len(ids), keep or 1)
        if logits.shape[:2] != shape:
            raise ValueError(f"logits are {logits.shape}, expected {shape} rows")
        self.states = {name: results[f"{name}_RetainedState"] for name in self.states}
        return logits


def padded(case: Case, start: int, stop: int, width: int):
    """Tokens `start..stop` and their positions, filled up with padding."""
    fill = width - (stop - start)
    return case.tokens(start, stop) + [0] * fill, list(range(start, stop)) + [-1] * fill


def run_alone(load_run, cases, judge: Judge, last_k: bool, spare: int):
    """Each prompt by itself: in one call, in chunks, in padded chunks, and in padded chunks that fill the states to the last
    row.

    `spare` rows are for padding, which `aic` writes over the last row: it must be no real position's. In a rolling state
    it is one's, once positions have come round; so where rows are spared, it is as long as they are many.
    """
    for case in cases:
        end, total = len(case.prompt), case.length - 1
        for chunk, reach, padding in ((end, total, False), (CHUNK, total, False), (CHUNK, total, True), (CHUNK, end, True)):
            spared = spare if padding else 0
            run = load_run(reach + spared, reach + spared if spared else max(chunk, DRAFT))
            for start in range(0, end, chunk):
                stop = min(start + chunk, end)
                ids, positions = padded(case, start, stop, chunk if padding else stop - start)
                keep = min(stop - start, end if chunk == end else 2) if last_k else None
                logits = run.call([ids], [positions], keep=keep)[0]
                judge.rows(case, stop - len(logits), logits)
            stride = DRAFT if last_k else 1
            for start in range(end, reach, stride):
                stop = min(start + stride, reach)
                ids, positions = padded(case, start, stop, stop - start)
                keep = stop - start if last_k else None
                judge.rows(case, start, run.call([ids], [positions], keep=keep)[0])


def run_slots(load_run, cases, judge: Judge, last_k: bool, padding: bool):
    """Two prompts in slots 2 and 0, decoded together; then a third takes over slot 2 while slot 0 keeps its states."""
    first, second, third = cases[1], cases[-1], cases[0]
    run = load_run(max(case.length for case in cases) - 1, max(len(case.prompt) for case in cases))
    admit(run, {2: first, 0: second}, judge, last_k, padding)
    decode(run, {2: first, 0: second}, 0, judge, last_k, padding)
    admit(run, {2: third}, judge, last_k, padding)
    decode(run, {2: third}, 0, judge, last_k, padding)
    # The last token of slot 0 again: it sees what it saw, if the newcomer wrote nowhere else.
    decode(run, {0: second}, len(second.greedy) - 2, judge, last_k, padding)


def admit(run: Run, slots: dict, judge: Judge, last_k: bool, padding: bool):
    keep = 2 if last_k else None
    calls = [slots] if padding else [{slot: case} for slot, case in slots.items()]
    for call in calls:
        width = max(len(case.prompt) for case in call.values())
        ids, positions = zip(*(padded(case, 0, len(case.prompt), width) for case in call.values()))
        logits = run.call(ids, positions, list(call), keep)
        for case, rows in zip(call.values(), logits):
            judge.rows(case, len(case.prompt) - len(rows), rows)


def decode(run: Run, slots: dict, begin: int, judge: Judge, last_k: bool, padding: bool):
    """Continues from step `begin` on; with padding, the slots that are not named take part with nothing to do."""
    stride = DRAFT if last_k else 1
    steps = min(len(case.greedy) for case in slots.values()) - 1
    for step in range(begin, steps, stride):
        count = min(stride, steps - step)
        keep = count if last_k else None
        rows = {}
        for slot in range(SLOTS):
            if slot in slots:
                start = len(slots[slot].prompt) + step
                rows[slot] = padded(slots[slot], start, start + count, count)
            elif padding:
                rows[slot] = [0] * count, [-1] * count
        # Rows need not come in the order of their slots.
        order = sorted(rows, reverse=True)
        ids, positions = zip(*(rows[slot] for slot in order))
        logits = run.call(ids, positions, order, keep)
        for slot, found in zip(order, logits):
            if slot in slots:
                judge.rows(slots[slot], len(slots[slot].prompt) + step, found)


# --- the table


def export(binary: str, model: Path, target: str, variant: str, folder: Path) -> Path:
    command = [binary, "export", "--model", model, "--target", target, "--output", folder, *FLAGS[variant]]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise ValueError(f"export ended with {done.returncode}: {done.stderr.strip()}")
    (path,) = folder.glob("*.onnx")
    return path


def check(binary: str, name: str, target: str, variant: str, folder: Path) -> Judge:
    judge = Judge(F16_TOLERANCE if variant.startswith("f16") else TOLERANCE)
    path = export(binary, ROOT / name, target, variant, folder)
    onnx.checker.check_model(path, full_check=True)
    session = load(path, target)
    cases = read_cases(ROOT / name)
    config = ROOT / name / "config.json"
    # A GGUF file has its config within; those that are checked here have no window.
    window = json.loads(config.read_text()).get("sliding_window") if config.exists() else None
    load_run = lambda positions, widest: Run(session, target, window, positions, widest)
    last_k = "last-k" in variant
    if "cb" in variant:
        run_slots(load_run, cases, judge, last_k, padding=target == "cpu")
    else:
        run_alone(load_run, cases, judge, last_k, spare=int(target == "aic"))
    if judge.ids == 0:
        judge.errors.append("no id was compared")
    return judge


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("binary", help="qeff-host")
    arguments.add_argument("--only", default="", help="fixtures whose path contains this")
    arguments = arguments.parse_args()
    passed, failed = 0, []
    print(f"{'fixture':<28} {'target':<6} {'variant':<10} {'rows':>5} {'worst':>8} {'ids':>4} {'time':>6}")
    for name in FIXTURES + QUANTISED:
        if arguments.only not in name:
            continue
        for target in TARGETS:
            for variant in variants(name, target):
                fixture = name.removeprefix("tests/fixtures/").removesuffix("/model.gguf")
                label = f"{fixture:<28} {target:<6} {variant:<10}"
                begun = time.monotonic()
                with tempfile.TemporaryDirectory(prefix="qeff-onnx-") as folder:
                    try:
                        judge = check(arguments.binary, name, target, variant, Path(folder))
                    except Exception as error:  # Whatever a file provokes is this file's failure, not the end.
                        judge = Judge(errors=[f"{type(error).__name__}: {error}"])
                took = time.monotonic() - begun
                verdict = "FAIL" if judge.errors else "ok"
                print(f"{label} {judge.logits:>5} {judge.worst:>8.1e} {judge.ids:>4} {took:>5.2f}s  {verdict}", flush=True)
                if judge.errors:
                    failed.append((label, judge.errors))
                else:
                    passed += 1
    for label, errors in failed:
        print(f"\n{' '.join(label.split())}")
        for error in errors[:5]:
            print(f"  {error}")
        if len(errors) > 5:
            print(f"  and {len(errors) - 5} more")
    if passed + len(failed) == 0:
        print("nothing was checked")
    print(f"{passed} passed, {len(failed)} failed")
    return 0 if passed and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
