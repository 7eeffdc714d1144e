#!/usr/bin/env python3
"""Texts per second of an embedding model: qeff-host on both engines, sentence-transformers, plain ONNX Runtime.

    embed.py --model DIR --texts FILE [--host target/release/qeff-host] [--threads 2] [--rounds 5]

DIR is a sentence-transformers folder, FILE has one text a line. Each round runs everything once, in turns, on the
same texts; printed are medians of the rounds and how far vectors are apart. What loads a model is not counted.
qeff-host finds ONNX Runtime as always (ORT_DYLIB_PATH, or `engines install ort`).

Wants sentence-transformers, torch, transformers and onnxruntime.
"""
import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")


def host(args, engine, out):
    command = [args.host, "embed", "--model", args.model, "--engine", engine, "--file", args.texts, "--output", out]
    if args.threads and hasattr(os, "sched_setaffinity"):
        command = ["taskset", "-c", f"0-{args.threads - 1}", *command]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    words = said.split()
    return float(words[words.index("texts/s,") - 1]), np.load(out), said.strip().splitlines()[-1]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--model", required=True)
    ap.add_argument("--texts", required=True)
    ap.add_argument("--host", default="target/release/qeff-host")
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--rounds", type=int, default=5)
    args = ap.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, range(args.threads))
    os.environ["OMP_NUM_THREADS"] = str(args.threads)

    global np
    import numpy as np
    import onnxruntime
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(args.threads)
    texts = [line for line in Path(args.texts).read_text().splitlines() if line]
    model = SentenceTransformer(args.model, device="cpu")
    work = tempfile.TemporaryDirectory()
    session = plain(model, Path(work.name), args.threads, onnxruntime, torch)

    def sentence_transformers():
        start = time.perf_counter()
        vectors = model.encode(texts, batch_size=32, show_progress_bar=False, convert_to_numpy=True)
        return len(texts) / (time.perf_counter() - start), vectors, ""

    def plain_onnx_runtime():
        start = time.perf_counter()
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        vectors = [None] * len(texts)
        for first in range(0, len(order), 32):
            batch = order[first:first + 32]
            # In numpy: what torch would compute here is no part of ONNX Runtime.
            features = model.tokenizer([texts[i] for i in batch], padding=True, truncation=True,
                                       max_length=model.max_seq_length, return_tensors="np")
            mask = features["attention_mask"]
            hidden = session.run(None, {"input_ids": features["input_ids"].astype("int64"), "attention_mask": mask.astype("int64")})[0]
            pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
            pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
            for i, vector in zip(batch, pooled):
                vectors[i] = vector
        return len(texts) / (time.perf_counter() - start), np.array(vectors, dtype="float32"), ""

    runs = {
        "sentence-transformers": sentence_transformers,
        "plain ONNX Runtime": plain_onnx_runtime,
        "qeff-host --engine ort": lambda: host(args, "ort", os.path.join(work.name, "ort.npy")),
        "qeff-host --engine rten": lambda: host(args, "rten", os.path.join(work.name, "rten.npy")),
    }
    rates, reference = {name: [] for name in runs}, None
    for _ in range(args.rounds):
        for name, run in runs.items():
            rate, vectors, said = run()
            rates[name].append(rate)
            reference = vectors if reference is None else reference
            apart = float(np.abs(vectors - reference).max())
            if _ == 0:
                print(f"{name}: vectors within {apart:.1e} of {next(iter(runs))}. {said}")
    base = statistics.median(rates["plain ONNX Runtime"])
    print(f"\n| {len(texts)} texts, {args.threads} threads | texts per second | / plain ONNX Runtime |\n|---|---|---|")
    for name, found in rates.items():
        median = statistics.median(found)
        print(f"| {name} | {median:.0f} | {median / base:.2f} |")
    print(json.dumps(rates))


def plain(model, folder, threads, onnxruntime, torch):
    """The transformer alone as anybody would export it."""
    class Hidden(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, input_ids, attention_mask):
            return self.inner(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    file = folder / "plain.onnx"
    ids = torch.ones(2, 8, dtype=torch.long)
    dims = {0: "batch", 1: "seq"}
    with torch.no_grad():
        torch.onnx.export(Hidden(model[0].auto_model.eval()), (ids, ids), str(file), input_names=["input_ids", "attention_mask"],
                          output_names=["hidden"], dynamic_axes={name: dims for name in ("input_ids", "attention_mask", "hidden")},
                          opset_version=17, dynamo=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main()
