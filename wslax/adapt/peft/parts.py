"""The parts of each kind, there and back: PEFT's matrices are `[out, in]`, ours `[in, out]`."""

import math
from typing import Any

import numpy as np

from wslax.adapt.blocks import bone, miss
from wslax.adapt.low_rank import lora, pissa
from wslax.adapt.orthogonal import boft, oft
from wslax.adapt.peft.kind import Arrays, Config, Module, Shape, Write
from wslax.adapt.peft.own import ia3_of_modules, projected, sparse
from wslax.adapt.products import loha, lokr
from wslax.adapt.scaling import dora, ia3
from wslax.errors import WeightSpaceError
from wslax.io.peft import check_rank, number_of


def _whole_number(config: Config, field: str, default: int) -> int:
    value = config.get(field, default)
    if type(value) is not int or not -1 <= value < 2**31:
        raise WeightSpaceError(f"{field}: expected a whole number, got {value!r}")
    return value


def _alpha(config: Config, module: str, rank: int, alpha: str) -> float:
    check_rank(config, module, rank)
    return number_of(config, alpha, "alpha_pattern", module)


def _lora_scale(config: Config, module: str, rank: int) -> tuple[float, float]:
    """Alpha, and what the product is multiplied by."""
    alpha = _alpha(config, module, rank, "lora_alpha")
    return alpha, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _is_pissa(config: Config) -> bool:
    return config.get("init_lora_weights") == "pissa"


def read_lora(config: Config, module: str, parts: Arrays, shape: Shape) -> Module:
    """A module's LoRA, DoRA or PiSSA."""
    down, up = (parts[name].T for name in ("lora_A.weight", "lora_B.weight"))
    rank = down.shape[-1]
    alpha, scale = _lora_scale(config, module, rank)
    settings = ("rank", rank), ("alpha", alpha), ("rslora", bool(config.get("use_rslora")))
    bias = scale * parts["lora_B.bias"] if "lora_B.bias" in parts else None
    if bool(config.get("use_dora")) != ("lora_magnitude_vector" in parts):
        raise WeightSpaceError(f"{module}: use_dora and a lora_magnitude_vector go together")
    if config.get("use_dora"):
        train = {"down": down, "up": up, "magnitude": parts["lora_magnitude_vector"]}
        return Module(dora, settings, train, {}, bias)
    if _is_pissa(config):
        root = np.asarray(math.sqrt(scale), down.dtype)
        return Module(pissa, settings[:1], {"down": root * down, "up": root * up}, None, bias)
    return Module(lora, settings, {"down": down, "up": up}, {}, bias)


def write_lora(
    config: Config, module: str, train: Arrays, fixed: Arrays, shape: Shape
) -> dict[str, Any]:
    """The way back from LoRA, DoRA or PiSSA."""
    down, up = train["down"], train["up"]
    if _is_pissa(config):
        rank = down.shape[-1]
        _, scale = _lora_scale({"r": rank, **config}, module, rank)
        root = np.asarray(math.sqrt(scale), down.dtype)
        down, up = down / root, up / root
    lengths = {"lora_magnitude_vector": train["magnitude"]} if "magnitude" in train else {}
    return {"lora_A.weight": down.T, "lora_B.weight": up.T, **lengths}


LOHA = {"hada_w1_a": "up_1", "hada_w1_b": "down_1", "hada_w2_a": "up_2", "hada_w2_b": "down_2"}


def read_loha(config: Config, module: str, parts: Arrays, shape: Shape) -> Module:
    """A module's LoHa."""
    train = {ours: parts[theirs].T for theirs, ours in LOHA.items()}
    rank = train["down_1"].shape[-1]
    alpha = _alpha(config, module, rank, "alpha")
    return Module(loha, (("rank", rank), ("alpha", alpha)), train, {})


def write_loha(
    config: Config, module: str, train: Arrays, fixed: Arrays, shape: Shape
) -> dict[str, Any]:
    """The way back from LoHa."""
    return {theirs: train[ours].T for theirs, ours in LOHA.items()}


def _product(module: str, a: Any, b: Any) -> Any:
    if a.shape[1] != b.shape[0]:
        raise WeightSpaceError(f"{module}: {list(a.shape)} and {list(b.shape)} do not multiply")
    return a @ b


def read_lokr(config: Config, module: str, parts: Arrays, shape: Shape) -> Module:
    """A module's LoKr."""
    thin = [parts[name] for name in ("lokr_w1_a", "lokr_w1_b") if name in parts]
    train = {"left": (_product(module, *thin) if thin else parts["lokr_w1"]).T}
    if "lokr_w2" in parts:
        train["right"] = parts["lokr_w2"].T
    else:
        train |= {"right_down": parts["lokr_w2_b"].T, "right_up": parts["lokr_w2_a"].T}
        check_rank(config, module, train["right_up"].shape[0])
    rank = int(number_of(config, "r", "rank_pattern", module))
    alpha = number_of(config, "alpha", "alpha_pattern", module)
    factor = _whole_number(config, "decompose_factor", -1)
    settings = ("rank", rank), ("alpha", alpha), ("factor", None if factor == -1 else factor)
    return Module(lokr, settings, train, {})


def write_lokr(
    config: Config, module: str, train: Arrays, fixed: Arrays, shape: Shape
) -> dict[str, Any]:
    """The way back from LoKr."""
    if "right" in train:
        return {"lokr_w1": train["left"].T, "lokr_w2": train["right"].T}
    right = {"lokr_w2_a": train["right_up"].T, "lokr_w2_b": train["right_down"].T}
    return {"lokr_w1": train["left"].T} | right


def side(triangle: int) -> int:
    """The side of a skew matrix with so many numbers above its diagonal."""
    return (1 + math.isqrt(1 + 8 * triangle)) // 2


def _series(config: Config) -> int | None:
    """How many terms PEFT takes of Cayley's series; None for the transform itself."""
    if not config.get("use_cayley_neumann", True):
        return None
    return _whole_number(config, "num_cayley_neumann_terms", 5)


def read_oft(config: Config, module: str, parts: Arrays, shape: Shape) -> Module:
    """A module's OFT."""
    skew, terms = parts["oft_R.weight"][None], _series(config)
    settings = ("block_size", side(skew.shape[-1])), ("terms", terms)
    return Module(oft, settings, {"skew": skew if terms else -skew}, {})


def write_oft(
    config: Config, module: str, train: Arrays, fixed: Arrays, shape: Shape
) -> dict[str, Any]:
    """The way back from OFT."""
    return {"oft_R.weight": train["skew"][0] * (1 if _series(config) else -1)}


def read_boft(config: Config, module: str, parts: Arrays, shape: Shape) -> Module:
    """A module's BOFT."""
    blocks = parts["boft_R"]
    factors, _, rows, size = blocks.shape
    if rows != size or factors > 32:
        raise WeightSpaceError(f"{module}: {list(blocks.shape)} is no butterfly of square blocks")
    rows, columns = np.triu_indices(size, 1)
    skew = (np.swapaxes(blocks, -1, -2) - blocks)[..., rows, columns] / 2
    settings = ("block_size", size), ("factors", factors)
    return Module(boft, settings, {"skew": skew, "scale": parts["boft_s"].reshape(-1)}, {})


def write_boft(
    config: Config, module: str, train: Arrays, fixed: Arrays, shape: Shape
) -> dict[str, Any]:
    """The way back from BOFT."""
    skew = train["skew"]
    size = side(skew.shape[-1])
    rows, columns = np.triu_indices(size, 1)
    blocks = np.zeros((*skew.shape[:-1], size, size), skew.dtype)
    blocks[..., rows, columns], blocks[..., columns, rows] = -skew, skew
    return {"boft_R": blocks, "boft_s": train["scale"][:, None]}


def read_miss(config: Config, module: str, parts: Arrays, shape: Shape) -> Module:
    """A module's MiSS or Bone."""
    block, form = next(iter(parts.values())), config.get("init_weights", True)
    if block.ndim != (3 if form == "bat" else 2):
        raise WeightSpaceError(f"{module}: a block {list(block.shape)} is none of {form!r}")
    if form == "bat":
        maps = np.swapaxes(block, -1, -2)
        return Module(bone, (("size", block.shape[-1]),), {"maps": maps}, {})
    width = block.shape[1] if form == "mini" else None
    return Module(miss, (("rank", block.shape[0]), ("width", width)), {"block": block}, {})


def write_miss(name: str) -> Write:
    """The way back from MiSS or Bone, under a name."""

    def write(
        config: Config, module: str, train: Arrays, fixed: Arrays, shape: Shape
    ) -> dict[str, Any]:
        return {name: np.swapaxes(train["maps"], -1, -2) if "maps" in train else train["block"]}

    return write


def read_ia3(config: Config, module: str, parts: Arrays, shape: Shape) -> Module:
    """A module's IA3."""
    by = parts["ia3_l"]
    if by.shape == (1, shape[0]):
        return Module(ia3, (("inputs", True),), {"inputs": by.reshape(-1)}, {})
    return Module(ia3_of_modules, (), {"outputs": by.reshape(-1)}, {})


def write_ia3(
    config: Config, module: str, train: Arrays, fixed: Arrays, shape: Shape
) -> dict[str, Any]:
    """The way back from IA3."""
    if "inputs" in train:
        return {"ia3_l": train["inputs"][None]}
    return {"ia3_l": train["outputs"][:, None]}


def read_vera(config: Config, module: str, parts: Arrays, shape: Shape) -> Module:
    """A module's VeRA."""
    a, b = parts["vera_A"], parts["vera_B"]
    if a.shape[1] < shape[0] or b.shape[0] < shape[1]:
        raise WeightSpaceError(
            f"{module}: vera_A {list(a.shape)} and vera_B {list(b.shape)} are too small for it"
        )
    train = {"b": parts["vera_lambda_b"], "d": parts["vera_lambda_d"]}
    fixed = {"down": a[:, : shape[0]].T, "up": b[: shape[1]].T}
    return Module(projected, (("rank", len(a)),), train, fixed)


def write_vera(
    config: Config, module: str, train: Arrays, fixed: Arrays, shape: Shape
) -> dict[str, Any]:
    """The way back from VeRA."""
    if "down" not in fixed:
        raise WeightSpaceError(
            "the projections of this VeRA are drawn where they are used, PEFT's are stored; only "
            "what was read from PEFT can be written"
        )
    vectors = {"vera_lambda_b": train["b"], "vera_lambda_d": train["d"]}
    return vectors | {"vera_A": fixed["down"].T, "vera_B": fixed["up"].T}


def read_shira(config: Config, module: str, parts: Arrays, shape: Shape) -> Module:
    """A module's SHiRA."""
    values, places = parts["shira_weight"], parts["shira_indices"]
    if places.shape != (2, len(values)):
        raise WeightSpaceError(
            f"{module}: {len(values)} values at shira_indices {list(places.shape)}"
        )
    inside = (places >= 0) & (places < np.array(shape[::-1])[:, None])
    if not inside.all():
        raise WeightSpaceError(f"{module}: shira_indices lie outside {list(shape[::-1])}")
    to, at = places.astype(np.int64)
    index = (at * shape[1] + to).astype(np.int32)
    return Module(sparse, (("count", len(values)),), {"values": values}, {"index": index})


def write_shira(
    config: Config, module: str, train: Arrays, fixed: Arrays, shape: Shape
) -> dict[str, Any]:
    """The way back from SHiRA."""
    places = np.stack(np.divmod(fixed["index"], shape[1])[::-1]).astype(np.int32)
    return {"shira_weight": train["values"], "shira_indices": places}
