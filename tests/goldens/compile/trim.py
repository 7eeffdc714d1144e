"""Reduces recordings of the reference's `compile()` to what tests/cli/compile_goldens.rs compares.

    python3 trim.py FOLDER_OF_COMPILE_RECORDINGS FOLDER_OF_EXPORT_RECORDINGS
"""

import json
import pathlib
import re
import sys

compiles, exports = map(pathlib.Path, sys.argv[1:])
here = pathlib.Path(__file__).parent
recordings = {path.stem: json.loads(path.read_text()) for path in sorted(compiles.glob("*.json"))}

# Models that a plugin describes; every other program is a test graph with the recorded interface.
PLUGINS = {"llama-gqa", "gpt2", "mistral-sw"}
# A vision-language model's kinds of program, in the order in which they are compiled.
PAIRS = {"llava": "llava+dual", "llava_next": "llava_next+dual", "gemma3_mm": "gemma3_mm+dual"}


def interface_name(recording):
    """The export that was compiled, by its name among the export recordings, and a note if it was not recorded."""
    model, options = recording["checkpoint"], recording["from_pretrained"]
    config, asked = options.get("qaic_config", {}), recording["compile"]
    if recording["class"] == "lora-finite":
        return "llama+lora-finite" + ("+cb" if options.get("continuous_batching") else "")
    if recording["class"] == "QEffAutoPeftModelForCausalLM":
        return "llama+lora"
    if model == "bert" and "pooling" in options:
        return "bert+" + options["pooling"]
    if model in PAIRS:
        return PAIRS[model] if options["kv_offload"] else model + "+single"
    name = model
    if options.get("continuous_batching") or (recording["class"] == "legacy" and "full_batch_size" in asked):
        name += "+cb"
    if "include_sampler" in config:
        name += "+sampler"
    if config.get("speculative_model_type") == "target":
        name += "+tlm"
    if config.get("ccl_enabled"):
        name += "+ccl"
    if asked.get("use_onnx_subfunctions"):
        name += "+subfn"
    if asked.get("kv_cache_prefix"):
        name += "+kvprefix"
    return name


def interface(name):
    """Inputs and outputs of every program of an export."""
    path = exports / f"{name}.json"
    if path.exists():
        models = json.loads(path.read_text())["models"]
    else:
        # Not recorded on its own: the features' inputs together.
        *base, extra = name.split("+")
        models = json.loads((exports / f"{'+'.join(base)}.json").read_text())["models"]
        if extra == "ccl":
            models[0]["inputs"].append({"name": "comp_ctx_lengths", "dtype": "INT64", "shape": ["comp_ctx_lengths"]})
        elif extra == "cb":
            models = json.loads((exports / f"{'+'.join(base)}.json").read_text())["models"]
            models[0]["inputs"].append({"name": "batch_index", "dtype": "INT64", "shape": ["batch_size", 1]})
            for port in models[0]["inputs"] + models[0]["outputs"]:
                if port["name"].startswith("past_"):
                    port["shape"][0] = "full_batch_size"
        else:
            raise SystemExit(f"{name} was not recorded")
    line = lambda port: f"{port['name']} {port['dtype']} {' '.join(map(str, port['shape']))}"
    return [{side: [line(port) for port in model[side]] for side in ("inputs", "outputs")} for model in models]


def place(arg):
    """An argument without the folders of the recording."""
    arg = re.sub(r"\b(?:qeff|legacy)/\S*?\.onnx\b", "MODEL.onnx", arg)
    arg = re.sub(r"\bqeff/\S*?/qpc-[0-9a-f]{16}", "ARTIFACT", arg)
    arg = re.sub(r"\bqeff/[^/]+/[^/]+-[0-9a-f]{16}", "EXPORT", arg)
    return re.sub(r"\blegacy/[^/]+(/qpc)?(?=/)", "ARTIFACT", arg)


def layers(names):
    found = {int(match[1]) for name in names if (match := re.search(r"layers\.(\d+)", name))}
    return sorted(found)


def file(key, content):
    if isinstance(content, str):
        rows = re.findall(r" - IOName: (\S+)\n   Precision: (\S+)\n\n", content)
        if "".join(f" - IOName: {name}\n   Precision: {precision}\n\n" for name, precision in rows) == content:
            return " ".join(f"{name}:{precision}" for name, precision in rows)
        return content.splitlines()
    value = json.loads(place(json.dumps(content["json"])))
    if "specializations" in value:
        return [" ".join([s["name"], *(f"{k}={v}" for k, v in sorted(s["symbols"].items()))]) for s in value["specializations"]]
    for partition in value.get("partitions", []):
        if "nodeList" in partition:
            # Node names are the tracer's; which layers a stage has is what counts.
            partition["layers"] = layers(partition.pop("nodeList"))
    return value


def command(call):
    # No recorded argument has a space in it.
    return {"argv": " ".join(place(arg) for arg in call["argv"]), "files": {key: file(key, content) for key, content in call["files"].items()}}


def calls_of(recording):
    """Its calls; a recording without any found its result made by an earlier one."""
    if recording["calls"] or "raised" in recording:
        return recording["calls"], None
    wanted = recording["returned"]
    wanted = list(wanted.values()) if isinstance(wanted, dict) else [wanted]
    calls, of = [], set()
    for path in wanted:
        digest = re.search(r"qpc-([0-9a-f]{16})", path)[1]
        for name, other in recordings.items():
            found = [call for call in other["calls"] if any(digest in arg for arg in call["argv"])]
            if found:
                calls += found
                of.add(name)
                break
        else:
            raise SystemExit(f"{recording['case']}: nobody compiled {path}")
    return calls, " ".join(sorted(of))


cases, interfaces = {}, {}
for name, recording in recordings.items():
    program = interface_name(recording)
    interfaces.setdefault(program, interface(program))
    calls, same_as = calls_of(recording)
    case = {"case": name, "program": program, "from_pretrained": recording["from_pretrained"], "compile": recording["compile"]}
    if same_as:
        case["same_as"] = same_as
    if calls:
        case["commands"] = [command(call) for call in calls]
    if "raised" in recording:
        case["raised"] = re.sub(r"\n.*", "", recording["raised"]["message"], flags=re.S)
    group = "legacy" if recording["class"] == "legacy" else "errors" if name.startswith("err-") else "qnn" if "qnn" in name else "vision" if "llava" in name or "_mm" in name else "decoders" if any(x in name for x in ("llama", "lora", "gp", "mistral", "gemma", "qwen", "swift")) else "encoders"
    cases.setdefault(group, []).append(case)


def text(value, depth=0, width=150):
    """JSON that breaks only what does not fit a line."""
    flat = json.dumps(value)
    pad = "  " * depth
    if len(flat) + len(pad) <= width or not isinstance(value, (dict, list)):
        return flat
    if isinstance(value, dict):
        rows = [f'{pad}  {json.dumps(k)}: {text(v, depth + 1, width)}' for k, v in value.items()]
        return "{\n" + ",\n".join(rows) + f"\n{pad}}}"
    return "[\n" + ",\n".join(f"{pad}  {text(v, depth + 1, width)}" for v in value) + f"\n{pad}]"


for group, found in cases.items():
    (here / f"{group}.json").write_text(text(found) + "\n")
(here / "interfaces.json").write_text(text(interfaces) + "\n")
