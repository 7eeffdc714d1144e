#!/usr/bin/env python3
"""Writes the tiny checkpoint in this folder, and what Hugging Face transformers computes of it.

    pip install torch transformers safetensors && python make.py

Replace the two classes by those of your family. Where a config field changes the result, make a checkpoint for it.
"""
import json
from pathlib import Path

import torch
from transformers import LlamaConfig as Config, LlamaForCausalLM as Model

HERE = Path(__file__).resolve().parent
ARCHITECTURE = "MyArchForCausalLM"
NEW_TOKENS = 6
PROMPTS = [[5, 17, 42], [9, 60, 3, 33, 8, 21, 50, 4, 11]]

torch.manual_seed(1)
config = Config(vocab_size=67, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2)
model = Model(config).eval()
for parameter in model.parameters():  # fresh weights are so small that nothing would show
    if parameter.dim() > 1:
        torch.nn.init.normal_(parameter, std=0.3)
    else:
        torch.nn.init.uniform_(parameter, 0.5, 1.5)
model.to(torch.bfloat16).save_pretrained(HERE)
# Loaded anew, because buffers have been rounded along with the weights.
model = Model.from_pretrained(HERE, dtype=torch.float32, attn_implementation="eager").eval()

cases = []
for prompt in PROMPTS:
    ids, steps = list(prompt), []
    for _ in range(NEW_TOKENS):  # without a cache: nothing to get wrong
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1]
        first, second = logits.topk(2).values.tolist()
        assert first - second > 0.01, "a near-tie: choose another seed"
        steps.append([round(x, 6) for x in logits.tolist()])
        ids.append(int(logits.argmax()))
    cases.append(dict(prompt_ids=prompt, generated_ids=ids[len(prompt):], step_logits=steps))
(HERE / "expected.json").write_text(json.dumps(dict(cases=cases), separators=(",", ":")) + "\n")

path = HERE / "config.json"
written = json.loads(path.read_text())
written["architectures"] = [ARCHITECTURE]
path.write_text(json.dumps(written, indent=2) + "\n")
(HERE / "generation_config.json").unlink(missing_ok=True)
