"""Hostile files by the hundred thousand: `python tests/fuzz/hostile.py 100000 [SEED]`.

Valid safetensors, indexes, adapters and recipes are damaged by chance, and each must load or raise
one `WeightSpaceError`, soon, with a message of bearable length. What loads is checked: all of it
lies inside its file, and the reference library reads the same bytes.
"""

import collections
import copy
import json
import pathlib
import signal
import struct
import sys
import tempfile
import time
from contextlib import contextmanager

import ml_dtypes
import numpy as np

import wslax as ws
from wslax.adapt import read_peft
from wslax.errors import WeightSpaceError
from wslax.io.convert import read_map
from wslax.io.dequantise import find_pairs, read_pair
from wslax.io.lora import apply_adapter, read_adapter
from wslax.io.reader import open_tensors
from wslax.merge.files.config import read_recipe, read_recipes
from wslax.merge.mixture.recipe import as_mixture

SECONDS = 5.0  # an input that takes longer hangs
LETTERS = 4000  # a longer message is no sentence

TREE = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a.bias": np.arange(2, dtype=ml_dtypes.bfloat16),
    "b.weight": np.ones((2, 2), ml_dtypes.float8_e4m3fn),
    "b.weight_scale": np.ones((), np.float32),
    "c_blocks": np.zeros((2, 1, 16), np.uint8),
    "c_scales": np.full((2, 1), 127, np.uint8),
    "empty": np.zeros((0, 3)),
    "step": np.array(3),
}
LORA = {
    "base_model.model.a.lora_A.weight": np.ones((1, 3), np.float32),
    "base_model.model.a.lora_B.weight": np.ones((2, 1), np.float32),
    "base_model.model.a.base_layer.bias": np.ones(2, np.float32),
}
CONFIG = {
    "peft_type": "LORA", "r": 1, "lora_alpha": 2, "rank_pattern": {"a": 1},
    "alpha_pattern": {r"(.*\.)?a": 3}, "use_rslora": False, "fan_in_fan_out": False,
}  # fmt: skip
RECIPES = (
    """merge_method: ties
base_model: models/base
models:
  - model: models/math
    parameters:
      weight: [0.1, 0.9]
      density: 0.5
  - model: models/code
    parameters:
      weight:
        - {filter: mlp, value: 1e-1}
        - {value: 0.5}
parameters: {normalize: true, lambda: 0.9}
dtype: bfloat16
""",
    """base_model: models/base
gate_mode: cheap_embed
experts_per_token: 1
experts:
  - source_model: models/math
    positive_prompts: ["solve for x"]
    noise_scale: 0.1
  - source_model: models/code
    positive_prompts: ["def main():", 'x']
    negative_prompts: [once]
""",
    """'h.*.c_fc.weight': {to: 'h/*/up/kernel', axes: [0, 1]}
wte.weight: embed/embedding
""",
    """name: half
merge_method: slerp
base_model: models/base@main
slices:
  - sources:
      - {model: models/base@main, layer_range: [0, 2]}
      - model: {model: {path: models/math, revision: v1}, lora: {path: style}}
        layer_range: [1, 3]
        parameters: {}
    parameters: {t: [0, 0.5, 1]}
tokenizer:
  source: union
  tokens:
    new: {source: {kind: model_token, model: models/math, token: old}, force: true}
  pad_to_multiple_of: 8
chat_template: auto
layers: [model.layers]
---
merge_method: linear
modules:
  text: {models: [{model: half}, {model: other}], parameters: {weight: 1}}
  vision: {slices: [{sources: [{model: half, layer_range: [0, 1]}]}], prefix: visual}
""",
)
PEFT = json.loads((pathlib.Path(__file__).parents[1] / "adapt" / "peft_refs.json").read_text())
KINDS = ("lora", "dora", "loha", "lokr both", "oft", "boft", "miss bat", "ia3", "vera", "shira")
READERS = (read_recipe, as_mixture, read_map, read_recipes)
VALUES = (
    0, -1, 1, 2**31, 2**62, 2**63 - 1, 2**63, 2**64, -(2**63), 10**40, 0.5, 1e308, True, False,
    None, "", "F32", "BF16", "F8_E8M0", "F4", "U8", "C64", "x", "..", "/etc/passwd", "a/b", "\0",
    "\ud800", "é", "\u202e", "n" * 300, [], {}, [0], [0, 0], [2, 3], [3, 2], [6], [1] * 70,
    [0, 2**62, 2**62], [2**32, 2**32], [0, 24], [24, 0], [-1, 1], {"a": {}}, [[]],
    "model.safetensors", "LORA", "(a+)+$", "a{9999999999}", "((((((((", ".*.*.*.*.*.*x",
    float("inf"), float("nan"),
)  # fmt: skip
SNIPPETS = (
    "!!python/object/apply:os.system ['true']", "!!python/name:os.system", "&a [*a, *a]", "*a",
    "<<: {merge_method: ties}", "? [a, b]\n: 1", "!!timestamp x", "2020-99-99", "!!bool x",
    "!!int x", "!!float x", "!!binary x", "!!set {a}", "!!omap [a: 1]", "!!pairs [a]", "!!map [a]",
    "!!str {a: 1}", "!unknown x", "0b", "0x_", "1:59:59", "9" * 5000, "1" + ":59" * 3000, ".inf",
    ".nan", "-.inf", "1e999", "%YAML 9.9\n---", "---", "...", "\t", "\ufeff", "\0", "\u2028",
    "\x85", "|", ">", "|9\n", "'", '"', "{", "}", "[", "]", "- ", ": ", ",", "#", "@", "`", "%",
    "null", "~", "yes", "1", "merge_method: linear\n", "models: []\n", "'\\", '"\\x"',
    '"\\ud800"', "é" * 50,
    "[" * 2000, "{a: " * 2000, "- " * 2000, "? " * 2000, "!!python/tuple [1]", "=", "<<",
    "&a a: *a",
)  # fmt: skip


def pick(rng, some):
    return some[int(rng.integers(len(some)))]


def flipped(rng, raw, stop=None):
    raw = bytearray(raw)
    for _ in range(int(rng.integers(1, 9)) if raw else 0):
        raw[int(rng.integers(min(len(raw), stop or len(raw))))] ^= 1 << int(rng.integers(8))
    return bytes(raw)


def cut(rng, raw):
    """Cut off, grown, or with a piece taken out, doubled or put elsewhere."""
    i, j = sorted(int(x) for x in rng.integers(0, len(raw) + 1, 2))
    at = int(rng.integers(0, len(raw) + 1))
    return pick(rng, [
        raw[:i], raw[i:], raw[:i] + raw[j:], raw[:j] + raw[i:j] + raw[j:],
        raw + rng.bytes(int(rng.integers(1, 100))), raw[:at] + raw[i:j] + raw[at:], b"",
    ])  # fmt: skip


def places(value):
    """Every container of a JSON value with a key in it."""
    found = []
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        found.append((value, key))
        if isinstance(inner, (dict, list)):
            found += places(inner)
    return found


def edited(rng, value):
    """A JSON value with a few entries replaced, renamed, removed, moved or shifted."""
    value = copy.deepcopy(value)
    for _ in range(int(rng.integers(1, 4))):
        spots = places(value)
        if not spots:
            break
        (box, key), (other, elsewhere) = pick(rng, spots), pick(rng, spots)
        action = int(rng.integers(6))
        if action == 0:
            box[key] = copy.deepcopy(pick(rng, VALUES))
        elif action == 1 and isinstance(box, dict):
            box[str(pick(rng, VALUES))] = box.pop(key)
        elif action == 2:
            box.pop(key)
        elif action == 3:
            box[key] = copy.deepcopy(other[elsewhere])
        elif type(box[key]) is int:
            box[key] += int(rng.integers(-9, 10)) * (1 if action == 4 else 2**32)
    return value


def written(rng, value):
    """JSON text, at times with a name twice, nested without end, or in odd bytes."""
    text = json.dumps(value, ensure_ascii=bool(rng.integers(2))).encode("utf-8", "surrogatepass")
    match int(rng.integers(12)):
        case 0:
            return text.replace(b"{", b'{"a.weight":1,"a.weight":2,', 1)
        case 1:
            return text.replace(b"[", b"[" * int(rng.integers(1, 200_000)), 1)
        case 2:
            return text.replace(b"0", b"9" * int(rng.integers(1, 6000)), 1)
        case 3:
            return pick(rng, [b"\xef\xbb\xbf", b"\xff\xfe", b" ", b"\n" * 99, b"\0"]) + text
        case 4:
            return flipped(rng, text)
        case 5:
            return cut(rng, text)
    return text


def damaged(rng, raw):
    """A safetensors file, damaged."""
    (length,) = struct.unpack("<Q", raw[:8])
    header, data = raw[8 : 8 + length], raw[8 + length :]
    match int(rng.integers(6)):
        case 0:
            return flipped(rng, raw, 8 + length)
        case 1:
            return cut(rng, raw)
        case 2:
            claimed = pick(rng, [0, 1, length - 1, length + 1, len(raw), 2**32, 2**63, 2**64 - 1])
            return struct.pack("<Q", claimed) + header + data
        case 3:
            text = flipped(rng, header)
        case _:
            text = written(rng, edited(rng, json.loads(header)))
    return struct.pack("<Q", len(text)) + text + data


def scrambled(rng, text):
    """A recipe, damaged."""
    lines = text.split("\n")
    for _ in range(int(rng.integers(1, 5))):
        i, j = (int(x) for x in rng.integers(len(lines), size=2))
        match int(rng.integers(7)):
            case 0:
                lines[i] = lines[i].partition(":")[0] + ": " + pick(rng, SNIPPETS)
            case 1:
                lines.insert(i, pick(rng, SNIPPETS))
            case 2:
                lines.insert(i, lines[j])
            case 3:
                lines[i] = " " * int(rng.integers(9)) + lines[i].lstrip()
            case 4:
                at = int(rng.integers(len(lines[i]) + 1))
                lines[i] = lines[i][:at] + pick(rng, SNIPPETS) + lines[i][at:]
            case 5:
                del lines[i]
                lines = lines or [""]
    raw = "\n".join(lines).encode("utf-8", "surrogatepass")
    return flipped(rng, raw) if rng.integers(4) == 0 else raw


def check_tensors(path):
    """What was accepted lies inside its file and reads as the reference library reads it."""
    import safetensors
    import safetensors.numpy

    with open_tensors(path) as tensors:
        for name, info in tensors.infos.items():
            assert info.offset >= 8, name
            assert info.offset + info.nbytes <= info.file.stat().st_size, name
            flat = np.empty(info.size, info.dtype)
            assert tensors.read_into(name, 0, flat).tobytes() == tensors.read(name).tobytes()
        files = {info.file for info in tensors.infos.values()}
        reference = {}
        for file in files:
            for name, entry in safetensors.deserialize(file.read_bytes()):
                reference[name] = (tuple(entry["shape"]), bytes(entry["data"]))
        ours = {n: (i.shape, tensors.read(n).tobytes()) for n, i in tensors.infos.items()}
        assert ours == reference
        for pair in find_pairs(tensors.infos).pairs.values():
            read_pair(tensors, pair, 0, np.empty(min(pair.size, 1 << 16), np.float32))


class Originals:
    """Valid files in a folder of their own."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        ws.io.save(TREE, self.folder / "one.safetensors")
        ws.io.save(TREE, self.folder / "many", shard_bytes=24)
        self.index = self.folder / "many/model.safetensors.index.json"
        self.one = (self.folder / "one.safetensors").read_bytes()
        self.shards = {f: f.read_bytes() for f in (self.folder / "many").glob("*.safetensors")}
        self.where = json.loads(self.index.read_text())
        self.lora = self.folder / "lora"
        self.lora.mkdir()
        ws.io.save(LORA, self.lora / "adapter_model.safetensors")
        self.factors = (self.lora / "adapter_model.safetensors").read_bytes()
        self.peft = self.folder / "peft"
        self.peft.mkdir()
        self.base = of_peft(PEFT["base"], PEFT["shapes"])
        self.kinds = []
        for case in map(PEFT["cases"].get, KINDS):
            ws.io.save(of_peft(case["stored"], case["shapes"]), self.folder / "kind.safetensors")
            self.kinds.append((case["config"], (self.folder / "kind.safetensors").read_bytes()))


def of_peft(values, shapes):
    dtype = lambda name: np.int32 if name.endswith("indices") else np.float32
    return {k: np.array(v, dtype(k)).reshape(shapes[k]) for k, v in values.items()}


def try_file(rng, originals):
    path = originals.folder / "x.safetensors"
    path.write_bytes(damaged(rng, originals.one))
    check_tensors(path)


def try_index(rng, originals):
    for file, raw in originals.shards.items():
        file.write_bytes(damaged(rng, raw) if rng.integers(20) == 0 else raw)
    originals.index.write_bytes(written(rng, edited(rng, originals.where)))
    check_tensors(originals.folder / "many")


def try_adapter(rng, originals):
    weights, config = originals.lora / "adapter_model.safetensors", CONFIG
    changed = int(rng.integers(3))
    weights.write_bytes(damaged(rng, originals.factors) if changed == 0 else originals.factors)
    text = json.dumps(config).encode() if changed == 0 else written(rng, edited(rng, config))
    (originals.lora / "adapter_config.json").write_bytes(text)
    shapes = {name: value.shape for name, value in TREE.items()}
    adapter = read_adapter(originals.lora, shapes)
    for name in adapter.names:
        apply_adapter(adapter, name, 0, TREE[name].astype(np.float32))


def try_peft(rng, originals):
    config, raw = pick(rng, originals.kinds)
    changed = int(rng.integers(3))
    weights = originals.peft / "adapter_model.safetensors"
    weights.write_bytes(damaged(rng, raw) if changed == 0 else raw)
    text = json.dumps(config).encode() if changed == 0 else written(rng, edited(rng, config))
    (originals.peft / "adapter_config.json").write_bytes(text)
    read_peft(originals.peft, originals.base)


def try_recipe(rng, originals):
    which = int(rng.integers(len(RECIPES)))
    path = originals.folder / "x.yaml"
    path.write_bytes(scrambled(rng, RECIPES[which]))
    READERS[which](path)


TRIES = (try_file, try_recipe, try_index, try_recipe, try_adapter, try_peft)


@contextmanager
def no_longer_than(seconds):
    def stop(*_):
        raise TimeoutError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def attempt(number, seed, originals):
    """One input: `"accepted"`, or the beginning of our error; anything else propagates."""
    rng = np.random.default_rng([seed, number])
    try:
        with no_longer_than(SECONDS):
            TRIES[number % len(TRIES)](rng, originals)
    except WeightSpaceError as error:
        message = str(error)
        assert 0 < len(message) < LETTERS, f"a message of {len(message)} letters: {message[:300]}"
        message.encode()  # can be printed
        return "refused"
    return "accepted"


def main(count, seed):
    """Run, print what broke (at most a few of a kind), and say how long inputs took."""
    outcomes, broke, slowest = collections.Counter(), collections.Counter(), (0.0, -1)
    shared = pathlib.Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.exists() else None) as folder:
        originals = Originals(folder)
        for number in range(count):
            begin = time.perf_counter()
            kind = TRIES[number % len(TRIES)].__name__
            try:
                outcomes[kind, attempt(number, seed, originals)] += 1
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                what = f"{kind}: {type(error).__name__}: {str(error)[:60]}"
                broke[what] += 1
                if broke[what] <= 2:
                    print(f"input {number}: {kind}: {type(error).__name__}: {str(error)[:300]}")
            slowest = max(slowest, (time.perf_counter() - begin, number))
    for (kind, outcome), times in sorted(outcomes.items()):
        print(f"{kind:12} {outcome:9} {times}")
    print(f"{count} inputs, {sum(broke.values())} broke, slowest {slowest[0]:.3f} s ({slowest[1]})")
    return 1 if broke else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
