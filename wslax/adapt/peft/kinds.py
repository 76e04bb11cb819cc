"""Which adapter of ours a kind of PEFT's is, and which of its parts are which.

PEFT's matrices are `[out, in]`, ours `[in, out]`.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from wslax.adapt.blocks import bone, miss
from wslax.adapt.low_rank import lora, pissa
from wslax.adapt.orthogonal import boft, oft
from wslax.adapt.peft.own import ia3_of_modules, projected, sparse
from wslax.adapt.products import loha, lokr
from wslax.adapt.scaling import dora, ia3
from wslax.adapter import Adapter
from wslax.errors import WeightSpaceError
from wslax.io.peft import check_rank, number_of

Config = Mapping[str, Any]
Arrays = Mapping[str, Any]
Shape = tuple[int, ...]


class Module(NamedTuple):
    """The adapter of one module.

    Attributes:
      make: makes the adapter.
      settings: its arguments beside `where` and `groups`, hashable.
      train: its trained part.
      fixed: its fixed part; None for the one that `init` makes of the base.
      bias: what is added to the module's bias.
    """

    make: Callable[..., Adapter]
    settings: tuple[tuple[str, Any], ...]
    train: Arrays
    fixed: Arrays | None
    bias: Any = None


Read = Callable[[Config, str, Arrays, Shape], Module]
Implied = Callable[[Config, Mapping[str, Arrays]], dict[str, Any]]
Write = Callable[[Config, str, Arrays, Arrays, Shape], dict[str, Any]]


class Kind(NamedTuple):
    """A kind of adapter of PEFT.

    Attributes:
      read: `(config, module, parts, shape) -> Module`, the shape being `[in, out]`.
      write: `(config, module, train, fixed, shape) -> parts`, the way back.
      parts: how the names of its tensors end, one tuple for each set that may stand together.
      fields: of the configuration that it has beside those of all kinds.
      implied: `(config, {module: parts}) -> fields` that the tensors imply and nobody has given.
      always: fields as they have to be of what is written.
      shared: parts that all modules share, each as large as the largest needs it.
    """

    read: Read
    write: Write
    parts: tuple[tuple[str, ...], ...]
    fields: str
    implied: Implied = lambda config, modules: {}
    always: tuple[tuple[str, Any], ...] = ()
    shared: tuple[str, ...] = ()


# How many axes a part has where it is no matrix.
AXES = {
    "lora_B.bias": (1,), "lora_magnitude_vector": (1,), "boft_R": (4,), "vera_lambda_b": (1,),
    "vera_lambda_d": (1,), "shira_weight": (1,), "miss_block": (2, 3), "bone_block": (2, 3),
}  # fmt: skip


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


def _read_lora(config: Config, module: str, parts: Arrays, shape: Shape) -> Module:
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


def _write_lora(
    config: Config, module: str, train: Arrays, fixed: Arrays, shape: Shape
) -> dict[str, Any]:
    down, up = train["down"], train["up"]
    if _is_pissa(config):
        _, scale = _lora_scale(config, module, down.shape[-1])
        root = np.asarray(math.sqrt(scale), down.dtype)
        down, up = down / root, up / root
    lengths = {"lora_magnitude_vector": train["magnitude"]} if "magnitude" in train else {}
    return {"lora_A.weight": down.T, "lora_B.weight": up.T, **lengths}


_LOHA = {"hada_w1_a": "up_1", "hada_w1_b": "down_1", "hada_w2_a": "up_2", "hada_w2_b": "down_2"}


def _read_loha(config: Config, module: str, parts: Arrays, shape: Shape) -> Module:
    train = {ours: parts[theirs].T for theirs, ours in _LOHA.items()}
    rank = train["down_1"].shape[-1]
    alpha = _alpha(config, module, rank, "alpha")
    return Module(loha, (("rank", rank), ("alpha", alpha)), train, {})


def _write_loha(
    config: Config, module: str, train: Arrays, fixed: Arrays, shape: Shape
) -> dict[str, Any]:
    return {theirs: train[ours].T for theirs, ours in _LOHA.items()}


def _product(module: str, a: Any, b: Any) -> Any:
    if a.shape[1] != b.shape[0]:
        raise WeightSpaceError(f"{module}: {list(a.shape)} and {list(b.shape)} do not multiply")
    return a @ b


def _read_lokr(config: Config, module: str, parts: Arrays, shape: Shape) -> Module:
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


def _write_lokr(
    config: Config, module: str, train: Arrays, fixed: Arrays, shape: Shape
) -> dict[str, Any]:
    if "right" in train:
        return {"lokr_w1": train["left"].T, "lokr_w2": train["right"].T}
    right = {"lokr_w2_a": train["right_up"].T, "lokr_w2_b": train["right_down"].T}
    return {"lokr_w1": train["left"].T} | right


def _size(triangle: int) -> int:
    """The side of a skew matrix with so many numbers above its diagonal."""
    return (1 + math.isqrt(1 + 8 * triangle)) // 2


def _series(config: Config) -> int | None:
    """How many terms PEFT takes of Cayley's series; None for the transform itself."""
    if not config.get("use_cayley_neumann", True):
        return None
    return _whole_number(config, "num_cayley_neumann_terms", 5)


def _read_oft(config: Config, module: str, parts: Arrays, shape: Shape) -> Module:
    skew, terms = parts["oft_R.weight"][None], _series(config)
    settings = ("block_size", _size(skew.shape[-1])), ("terms", terms)
    return Module(oft, settings, {"skew": skew if terms else -skew}, {})


def _write_oft(
    config: Config, module: str, train: Arrays, fixed: Arrays, shape: Shape
) -> dict[str, Any]:
    return {"oft_R.weight": train["skew"][0] * (1 if _series(config) else -1)}


def _read_boft(config: Config, module: str, parts: Arrays, shape: Shape) -> Module:
    blocks = parts["boft_R"]
    factors, _, rows, size = blocks.shape
    if rows != size or factors > 32:
        raise WeightSpaceError(f"{module}: {list(blocks.shape)} is no butterfly of square blocks")
    rows, columns = np.triu_indices(size, 1)
    skew = (np.swapaxes(blocks, -1, -2) - blocks)[..., rows, columns] / 2
    settings = ("block_size", size), ("factors", factors)
    return Module(boft, settings, {"skew": skew, "scale": parts["boft_s"].reshape(-1)}, {})


def _write_boft(
    config: Config, module: str, train: Arrays, fixed: Arrays, shape: Shape
) -> dict[str, Any]:
    skew = train["skew"]
    size = _size(skew.shape[-1])
    rows, columns = np.triu_indices(size, 1)
    blocks = np.zeros((*skew.shape[:-1], size, size), skew.dtype)
    blocks[..., rows, columns], blocks[..., columns, rows] = -skew, skew
    return {"boft_R": blocks, "boft_s": train["scale"][:, None]}


def _read_miss(config: Config, module: str, parts: Arrays, shape: Shape) -> Module:
    block, form = next(iter(parts.values())), config.get("init_weights", True)
    if block.ndim != (3 if form == "bat" else 2):
        raise WeightSpaceError(f"{module}: a block {list(block.shape)} is none of {form!r}")
    if form == "bat":
        maps = np.swapaxes(block, -1, -2)
        return Module(bone, (("size", block.shape[-1]),), {"maps": maps}, {})
    width = block.shape[1] if form == "mini" else None
    return Module(miss, (("rank", block.shape[0]), ("width", width)), {"block": block}, {})


def _write_miss(name: str) -> Write:
    def write(
        config: Config, module: str, train: Arrays, fixed: Arrays, shape: Shape
    ) -> dict[str, Any]:
        return {name: np.swapaxes(train["maps"], -1, -2) if "maps" in train else train["block"]}

    return write


def _read_ia3(config: Config, module: str, parts: Arrays, shape: Shape) -> Module:
    by = parts["ia3_l"]
    if by.shape == (1, shape[0]):
        return Module(ia3, (("inputs", True),), {"inputs": by.reshape(-1)}, {})
    return Module(ia3_of_modules, (), {"outputs": by.reshape(-1)}, {})


def _write_ia3(
    config: Config, module: str, train: Arrays, fixed: Arrays, shape: Shape
) -> dict[str, Any]:
    if "inputs" in train:
        return {"ia3_l": train["inputs"][None]}
    return {"ia3_l": train["outputs"][:, None]}


def _read_vera(config: Config, module: str, parts: Arrays, shape: Shape) -> Module:
    a, b = parts["vera_A"], parts["vera_B"]
    if a.shape[1] < shape[0] or b.shape[0] < shape[1]:
        raise WeightSpaceError(
            f"{module}: vera_A {list(a.shape)} and vera_B {list(b.shape)} are too small for it"
        )
    train = {"b": parts["vera_lambda_b"], "d": parts["vera_lambda_d"]}
    fixed = {"down": a[:, : shape[0]].T, "up": b[: shape[1]].T}
    return Module(projected, (("rank", len(a)),), train, fixed)


def _write_vera(
    config: Config, module: str, train: Arrays, fixed: Arrays, shape: Shape
) -> dict[str, Any]:
    if "down" not in fixed:
        raise WeightSpaceError(
            "the projections of this VeRA are drawn where they are used, PEFT's are stored; only "
            "what was read from PEFT can be written"
        )
    vectors = {"vera_lambda_b": train["b"], "vera_lambda_d": train["d"]}
    return vectors | {"vera_A": fixed["down"].T, "vera_B": fixed["up"].T}


def _read_shira(config: Config, module: str, parts: Arrays, shape: Shape) -> Module:
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


def _write_shira(
    config: Config, module: str, train: Arrays, fixed: Arrays, shape: Shape
) -> dict[str, Any]:
    places = np.stack(np.divmod(fixed["index"], shape[1])[::-1]).astype(np.int32)
    return {"shira_weight": train["values"], "shira_indices": places}


def _none(*_: Any) -> Any:
    raise WeightSpaceError("LN_TUNING has whole leaves alone")


def _ranks(part: str) -> Implied:
    """The rank by a part `[r, ...]`, and the modules that have another."""

    def implied(config: Config, modules: Mapping[str, Arrays]) -> dict[str, Any]:
        if "r" in config:
            return {}
        found = {m: parts[part].shape[0] for m, parts in modules.items() if part in parts}
        most = max(found.values(), default=8)
        return {"r": most, "rank_pattern": {m: r for m, r in found.items() if r != most}}

    return implied


def _alike(field: str, fields_of: Callable[[Arrays], dict[str, Any]]) -> Implied:
    """Fields of each module's parts, one of which is `field`; they are the same for all."""

    def implied(config: Config, modules: Mapping[str, Arrays]) -> dict[str, Any]:
        if field in config:
            return {}
        found = {module: fields_of(parts) for module, parts in modules.items()}
        first = next(iter(found.values()))
        for module, fields in found.items():
            if fields != first:
                raise WeightSpaceError(
                    f"{module}: has {fields}, another module {first}; PEFT has one for all modules"
                )
        return first

    return implied


def _miss_fields(parts: Arrays) -> dict[str, Any]:
    block = next(iter(parts.values()))
    return {"r": block.shape[-1], "init_weights": "bat"} if block.ndim == 3 else {"r": len(block)}


def _boft_fields(parts: Arrays) -> dict[str, Any]:
    factors, _, size, _ = parts["boft_R"].shape
    return {"boft_block_size": size, "boft_block_num": 0, "boft_n_butterfly_factor": factors}


def _oft_fields(parts: Arrays) -> dict[str, Any]:
    return {"r": 0, "oft_block_size": _size(parts["oft_R.weight"].shape[-1])}


def _feedforward(config: Config, modules: Mapping[str, Arrays]) -> dict[str, Any]:
    inputs = [module for module, parts in modules.items() if parts["ia3_l"].shape[0] == 1]
    return {"feedforward_modules": inputs}


KINDS = {
    "LORA": Kind(
        _read_lora,
        _write_lora,
        tuple(
            ("lora_A.weight", "lora_B.weight", *more)
            for more in ((), ("lora_B.bias",), ("lora_magnitude_vector",))
        ),
        "alora_invocation_tokens alpha_pattern arrow_config bias corda_config ensure_weight_tying "
        "eva_config init_lora_weights kasa_config layer_replication loftq_config lora_alpha "
        "lora_bias lora_dropout lora_ga_config megatron_config megatron_core monteclora_config "
        "qalora_group_size r rank_pattern target_parameters trainable_token_indices use_bdlora "
        "use_dora use_qalora use_rslora velora_config",
        _ranks("lora_A.weight"),
        (("lora_bias", False),),  # what was added to biases is stored in them
    ),
    "LOHA": Kind(
        _read_loha,
        _write_loha,
        (tuple(_LOHA),),
        "alpha alpha_pattern module_dropout r rank_dropout rank_pattern use_effective_conv2d",
        _ranks("hada_w1_b"),
    ),
    "LOKR": Kind(
        _read_lokr,
        _write_lokr,
        tuple(
            (*left, *right)
            for left in (("lokr_w1",), ("lokr_w1_a", "lokr_w1_b"))
            for right in (("lokr_w2",), ("lokr_w2_a", "lokr_w2_b"))
        ),
        "alpha alpha_pattern decompose_both decompose_factor module_dropout r rank_dropout "
        "rank_dropout_scale rank_pattern use_effective_conv2d",
        _ranks("lokr_w2_b"),
        (("decompose_both", False),),
    ),
    "OFT": Kind(
        _read_oft,
        _write_oft,
        (("oft_R.weight",),),
        "bias eps module_dropout num_cayley_neumann_terms oft_block_size r use_cayley_neumann",
        _alike("r", _oft_fields),
    ),
    "BOFT": Kind(
        _read_boft,
        _write_boft,
        (("boft_R", "boft_s"),),
        "bias boft_block_num boft_block_size boft_dropout boft_n_butterfly_factor",
        _alike("boft_block_size", _boft_fields),
    ),
    "MISS": Kind(
        _read_miss,
        _write_miss("miss_block"),
        (("miss_block",),),
        "bias mini_r miss_dropout r",
        _alike("r", _miss_fields),
    ),
    "BONE": Kind(
        _read_miss,
        _write_miss("bone_block"),
        (("bone_block",),),
        "bias r",
        _alike("r", _miss_fields),
    ),
    "IA3": Kind(
        _read_ia3,
        _write_ia3,
        (("ia3_l",),),
        "feedforward_modules init_ia3_weights",
        _feedforward,
    ),
    "VERA": Kind(
        _read_vera,
        _write_vera,
        (("vera_lambda_b", "vera_lambda_d", "vera_A", "vera_B"),),
        "bias d_initial projection_prng_key r save_projection vera_dropout",
        _alike("r", lambda parts: {"r": len(parts["vera_A"])}),
        (("save_projection", True),),
        ("vera_A", "vera_B"),
    ),
    "SHIRA": Kind(
        _read_shira,
        _write_shira,
        (("shira_weight", "shira_indices"),),
        "mask_type r random_seed",
    ),
    "LN_TUNING": Kind(_none, _none, (), ""),  # whole leaves alone
}
