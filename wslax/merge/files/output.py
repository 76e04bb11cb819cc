"""What stands beside the merged weights: config, tokenizer, recipe, card and provenance."""

import copy
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from wslax.errors import WeightSpaceError
from wslax.io.files import TOKENIZER_FILES, carry_files
from wslax.merge.files.plan import Plan
from wslax.merge.files.recipe import Recipe
from wslax.merge.files.references import read_json, split
from wslax.merge.files.targets import Stacked
from wslax.merge.files.templates import FILE as TEMPLATE
from wslax.merge.files.templates import choose_template
from wslax.merge.files.tokens import FILE as TOKENIZER
from wslax.merge.files.tokens import SLOW, Tokens

PROVENANCE, RECIPE, CARD = "wslax_merge.json", "mergekit_config.yml", "README.md"
_CARD = """---
{front}---
# {name}

A merge of pre-trained models by [wslax](https://pypi.org/project/wslax/).

## How it was merged

By **{method}** ({source}){base}, from:

{models}

The recipe, which `wslax merge` and mergekit run as it is:

```yaml
{recipe}```
"""


def as_yaml(recipe: Recipe) -> dict[str, Any]:
    """A recipe as it is written in YAML: what is not said is left out."""

    def plain(value: Any) -> Any:
        if hasattr(value, "__dataclass_fields__"):
            return {k: plain(v) for k, v in vars(value).items() if v or (v == 0 and v is not False)}
        if isinstance(value, Mapping):
            return {k: plain(v) for k, v in value.items()}
        return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value

    return plain(recipe)


def check_output(plan: Plan) -> None:
    """Find out before any work whether config and chat template can be written."""
    _config(plan)
    choose_template(plan.recipe.chat_template, plan.models)


def write_folder(plan: Plan, folder: pathlib.Path, provenance: Mapping[str, Any]) -> None:
    """Write everything but the weights into the output's folder."""
    if plan.donor.folder is not None:
        carry_files(plan.donor.folder, folder)
        if plan.vocabulary is not None:
            _write_tokenizer(plan.vocabulary.tokens, folder)
        config = _config(plan)
        if config != plan.donor.config:
            _write_json(folder / "config.json", config)
    _write_template(plan, folder)
    given = provenance["recipe"]
    text = yaml.safe_dump_all(
        given if isinstance(given, list) else [given], sort_keys=False, default_flow_style=None
    )
    (folder / RECIPE).write_text(text, "utf-8")
    (folder / CARD).write_text(_card(plan, folder.name.removesuffix(".partial"), text), "utf-8")
    _write_json(folder / PROVENANCE, provenance)


def _write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _card(plan: Plan, name: str, recipe: str) -> str:
    ids = [part for model in plan.models for part in split(model.reference) if part]
    hub = [i for i in ids if i.count("/") == 1 and not pathlib.Path(i).exists()]
    front = {
        "base_model": hub,
        "library_name": "transformers",
        "tags": ["mergekit", "merge", "wslax"],
    }
    lines = [f"* {_link(m.reference, hub)}" for m in plan.models if m.reference != plan.base]
    base = f" on the base {_link(plan.base, hub)}" if plan.base else ""
    return _CARD.format(
        front=yaml.safe_dump(front, sort_keys=False), name=name, method=plan.method.name,
        source=plan.method.source, base=base,
        models="\n".join(lines), recipe=recipe,
    )  # fmt: skip


def _link(reference: str, hub: list[str]) -> str:
    name = reference.partition("@")[0]
    return f"[{reference}](https://huggingface.co/{name})" if reference in hub else f"`{reference}`"


def _config(plan: Plan) -> dict[str, Any]:
    """The donor's config with what the merge changes: dtype, depth, vocabulary, tied heads."""
    config = copy.deepcopy(plan.donor.config)
    if not config:
        return config
    config.pop("quantization_config", None)
    stored = plan.recipe.out_dtype or plan.recipe.dtype
    if stored:
        config["dtype" if "dtype" in config else "torch_dtype"] = stored
    for stacked in plan.stacked:
        _set_depth(config, stacked)
    if plan.vocabulary is not None:
        for _, place in _places(config):
            if "vocab_size" in place:
                place["vocab_size"] = plan.vocabulary.rows
    names = {job.name for job in plan.jobs}
    for _, place in _places(config):
        heads = [n for n in names if n.endswith("lm_head.weight") and n not in plan.donor.parts]
        if place.get("tie_word_embeddings") is True and heads:
            place["tie_word_embeddings"] = False
    return config


def _places(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The config and those of its parts (`text_config`, `vision_config`), by key."""
    yield "", config
    yield from ((k, v) for k, v in config.items() if k.endswith("_config") and isinstance(v, dict))


def _set_depth(config: dict[str, Any], stacked: Stacked) -> None:
    """Write the new number of layers wherever the config says the old one.

    Lists with an entry a layer (`layer_types`) are taken from the first sources' layers.
    """
    if stacked.layers == tuple(range(stacked.before)):
        return
    parts = ("encoder", "decoder", "vision", "visual", "text")
    words = [word for word in parts if word in stacked.stack]
    found = [
        (label, place, key)
        for label, place in _places(config)
        for key, value in place.items()
        if type(value) is int and value == stacked.before and _counts_layers(key)
        if not any(part in key for part in parts if part not in words)
    ]
    near = [(place, key) for label, place, key in found if any(w in label + key for w in words)]
    near = near or [(place, key) for label, place, key in found if label in ("", "text_config")]
    if not near:
        raise WeightSpaceError(
            f"config.json: no key says that {stacked.stack} has {stacked.before} layers, so their "
            f"new number, {len(stacked.layers)}, cannot be written"
        )
    for place, key in near:
        place[key] = len(stacked.layers)
        for name, value in place.items():
            if "layer" in name and isinstance(value, list) and len(value) == stacked.before:
                place[name] = [value[min(i, len(value) - 1)] for i in stacked.layers]


def _counts_layers(key: str) -> bool:
    return key == "depth" or ("layer" in key and not key.startswith(("first", "max")))


def _write_tokenizer(tokens: Tokens, folder: pathlib.Path) -> None:
    """The output's tokenizer: the source's own files where nothing changed, else a new json."""
    for glob in TOKENIZER_FILES:
        for file in folder.glob(glob):
            file.unlink()
    carry_files(tokens.path.parent, folder, TOKENIZER_FILES)
    if read_json(tokens.path) == tokens.content:
        return
    for name in SLOW:
        (folder / name).unlink(missing_ok=True)
    _write_json(folder / TOKENIZER, tokens.content)
    config = read_json(folder / "tokenizer_config.json")
    added = config.get("added_tokens_decoder")
    if isinstance(added, dict):
        known = {str(i) for i in tokens.ids.values()}
        config["added_tokens_decoder"] = {i: entry for i, entry in added.items() if i in known}
        _write_json(folder / "tokenizer_config.json", config)


def _write_template(plan: Plan, folder: pathlib.Path) -> None:
    template = choose_template(plan.recipe.chat_template, plan.models)
    if template is None:
        return
    path = folder / "tokenizer_config.json"
    _write_json(path, {**read_json(path), "chat_template": template})
    if (folder / TEMPLATE).exists():
        (folder / TEMPLATE).write_text(template, "utf-8")
