#!/usr/bin/env python3
"""Train the demo checkpoint: a Llama of 1.77M parameters that has read one book.

    train.py --out kjv-1.7m                              # everything, from the Debian archive to the checkpoint
    train.py --out kjv-1.7m --steps 200                  # a quick look
    train.py --out kjv-1.7m --expected expected.json     # only that file, for a checkpoint that exists

Five stages, top to bottom: the text (from a Debian package), the tokenizer, the windows the
model sees, the training loop, the export. The seed is fixed; floating-point sums depend on the
machine and on the number of threads, so another machine gets an equally good model rather than
the same bytes.

Needs torch, transformers, tokenizers and safetensors; apt-get, dpkg and libreadline8 for the text.
"""
import argparse
import copy
import json
import math
import re
import subprocess
import time
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SEPARATOR = "<|endoftext|>"  # begins every text and ends it: both BOS and EOS
VOCAB = 1536
STEPS = 2200
ROWS, LENGTH = 32, 256  # tokens per step; the last part of the run has half the rows at twice the length
PEAK_LR, WARMUP, WEIGHT_DECAY, CLIP = 3e-3, 50, 0.1, 1.0
PROMPTS = ["In the beginning", "The wise man", "The LORD is my"]  # the last one runs into EOS


def book(work):
    """The King James Bible: a list of chapters, each a list of verses without their numbers."""
    if not (work / "usr/bin/bible").exists():
        for package in ("bible-kjv", "bible-kjv-text"):
            subprocess.run(["apt-get", "download", package], cwd=work, check=True)
        for deb in work.glob("bible-kjv*.deb"):
            subprocess.run(["dpkg", "-x", deb, work], check=True)
    # -f prints one verse a line, as "Ge1:1 In the beginning God created ...".
    lines = subprocess.run([work / "usr/bin/bible", "-f", "-p", work / "usr/lib", "Gen1:1-Rev22:21"],
                           stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stdout.splitlines()
    chapters = {}
    for line in lines:
        reference, verse = line.split(" ", 1)
        chapters.setdefault(reference.split(":")[0], []).append(re.sub(r"\s+", " ", verse).strip())
    assert (len(chapters), sum(map(len, chapters.values()))) == (1189, 31102), "not the whole book"
    return list(chapters.values())


def train_tokenizer(texts):
    """Byte-level BPE. Its post-processor puts the separator before every text."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=VOCAB, show_progress=False, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[AddedToken(SEPARATOR, special=True, normalized=False)]))
    tok.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), processors.TemplateProcessing(
        single=f"{SEPARATOR} $A", pair=f"{SEPARATOR} $A {SEPARATOR} $B",
        special_tokens=[(SEPARATOR, tok.token_to_id(SEPARATOR))])])
    return tok


class Text:
    """Chapters as one stream of ids, a separator after each, cut into windows for training."""

    def __init__(self, tok, chapters):
        encode = lambda text: tok.encode(text, add_special_tokens=False).ids
        self.separator = tok.token_to_id(SEPARATOR)
        self.openings = []  # (a verse as the beginning of a text, where the stream goes on after it)
        stream = []
        for verses in chapters:
            for i, verse in enumerate(verses):
                stream += encode(" " + verse if i else verse)
                self.openings.append((torch.tensor([self.separator] + encode(verse)), len(stream)))
            stream.append(self.separator)
        self.stream = torch.tensor(stream)

    def windows(self, rows, length, generator):
        """Inputs and targets, [rows, length] each.

        Every verse, not only the first of its chapter, is shown as the beginning of a text, so
        that a prompt may begin anywhere.
        """
        usable = next(i for i in reversed(range(len(self.openings))) if self.openings[i][1] + length < len(self.stream))
        picked = []
        for at in torch.randint(usable, (rows,), generator=generator).tolist():
            opening, onward = self.openings[at]
            picked.append(torch.cat([opening, self.stream[onward:onward + length]])[:length + 1])
        picked = torch.stack(picked)
        return picked[:, :-1], picked[:, 1:]


def loss_of(model, inputs, targets):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=inputs, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def learning_rate(step, progress):
    """Linear warm-up, then half a cosine down to a fiftieth."""
    return PEAK_LR * min((step + 1) / WARMUP, 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


@torch.no_grad()
def held_out_loss(model, held):
    generator = torch.Generator().manual_seed(0)
    batches = [held.windows(ROWS, LENGTH, generator) for _ in range(4)]
    return sum(float(loss_of(model, *batch)) for batch in batches) / len(batches)


def train(config, trained, held, steps, minutes, seed, save, save_every):
    """Progress is the larger share of the steps and of the minutes, so that a busy machine still ends its schedule."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    gains = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW([dict(params=decayed, weight_decay=WEIGHT_DECAY), dict(params=gains, weight_decay=0.0)],
                                  lr=PEAK_LR, betas=(0.9, 0.95))
    generator = torch.Generator().manual_seed(seed)
    began = time.monotonic()
    step, progress = 0, 0.0
    while progress < 1:
        late = progress > 0.9  # short windows are cheaper; the last ones teach the whole context
        rows, length = (ROWS // 2, 2 * LENGTH) if late else (ROWS, LENGTH)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, progress)
        loss = loss_of(model, *trained.windows(rows, length, generator))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        step += 1
        progress = max(step / steps, (time.monotonic() - began) / (60 * minutes))
        if step % 50 == 0 or progress >= 1:
            print(f"step {step} loss {loss.item():.3f} held-out {held_out_loss(model, held):.3f} "
                  f"after {time.monotonic() - began:.0f} s", flush=True)
        if step % save_every == 0:
            save(model)
    save(model)


def export(model, tok, out):
    """A Hugging Face checkpoint, its weights rounded to bf16."""
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(out)
    PreTrainedTokenizerFast(tokenizer_object=tok, bos_token=SEPARATOR, eos_token=SEPARATOR, model_max_length=2 * LENGTH,
                            clean_up_tokenization_spaces=False).save_pretrained(out)
    (out / "special_tokens_map.json").unlink(missing_ok=True)  # tokenizer_config.json says the same


@torch.no_grad()
def expected(out, new_tokens=48):
    """What a correct implementation must continue the prompts with: f32, eager attention, no cache."""
    model = LlamaForCausalLM.from_pretrained(out, dtype=torch.float32, attn_implementation="eager").eval()
    tok = PreTrainedTokenizerFast.from_pretrained(out)
    cases = []
    for prompt in PROMPTS:
        prompt_ids = tok(prompt)["input_ids"]
        ids, margins = list(prompt_ids), []
        for _ in range(new_tokens):
            top = torch.topk(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1], 2)
            ids.append(int(top.indices[0]))
            margins.append(round(float(top.values[0] - top.values[1]), 6))
        greedy = ids[len(prompt_ids):]
        stop_at = greedy.index(tok.eos_token_id) if tok.eos_token_id in greedy else None
        cases.append(dict(prompt=prompt, prompt_ids=prompt_ids, greedy_ids=greedy, margins=margins, stop_at=stop_at,
                          text=tok.decode(greedy)))
        print(f"{prompt}|{cases[-1]['text']}  (smallest margin {min(margins):.4f})")
    return dict(cases=cases)


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--out", type=Path, default=Path("kjv-1.7m"), help="directory of the checkpoint")
    args.add_argument("--work", type=Path, default=Path("kjv-text"), help="where the Debian packages are unpacked")
    args.add_argument("--steps", type=int, default=STEPS)
    args.add_argument("--minutes", type=float, default=math.inf, help="finish early, in good order, when they have passed")
    args.add_argument("--seed", type=int, default=1)
    args.add_argument("--threads", type=int, default=1)
    args.add_argument("--save-every", type=int, default=300, help="steps between two saved checkpoints")
    args.add_argument("--expected", type=Path, help="only write this file, from the checkpoint in --out")
    args = args.parse_args()
    torch.set_num_threads(args.threads)
    if args.expected:
        args.expected.write_text(json.dumps(expected(args.out), indent=1) + "\n")
        return

    args.work.mkdir(parents=True, exist_ok=True)
    chapters = book(args.work)
    tok = train_tokenizer([" ".join(verses) for verses in chapters])
    held = Text(tok, chapters[25::50])
    trained = Text(tok, [c for i, c in enumerate(chapters) if i % 50 != 25])
    separator = tok.token_to_id(SEPARATOR)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=192, intermediate_size=448, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2 * LENGTH, rms_norm_eps=1e-5, rope_theta=10000.0,
        tie_word_embeddings=True, bos_token_id=separator, eos_token_id=separator, initializer_range=0.02)
    print(f"{len(trained.stream)} tokens to train on, {len(held.stream)} held out")
    train(config, trained, held, args.steps, args.minutes, args.seed, lambda model: export(model, tok, args.out), args.save_every)


if __name__ == "__main__":
    main()
