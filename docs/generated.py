"""Write into the pages what the library itself knows: `python docs/generated.py`.

The pages stay plain Markdown, to be read anywhere; a test fails when one of them is behind.
"""

import dataclasses
import importlib
import inspect
import json
import pathlib
import re
import statistics

import yaml

from wslax.cli.methods import markdown
from wslax.merge.further import FURTHER
from wslax.merge.registry import METHODS
from wslax.recipes.result import plain
from wslax.recipes.tour import TourConfig

DOCS = pathlib.Path(__file__).parent


def settings() -> str:
    """Every setting of the tour with its default, as the YAML of `--config`."""
    values = plain(dataclasses.asdict(TourConfig()))
    text = yaml.safe_dump(values, sort_keys=False, default_flow_style=None)
    return f"```yaml\n{text}```"


FAMILIES = (
    "subspace", "interference", "masks", "competition", "soups", "statistics", "adaptive",
    "propagated", "averaging",
)  # fmt: skip


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _row(function) -> tuple[str, ...]:
    """A function's name, first line, options and first reference, from its own documentation."""
    text = inspect.getdoc(function)
    about = re.sub(r"\\\((.*?)\\\)", r"$\1$", text.splitlines()[0])
    options = ", ".join(
        f"`{name}` {'required' if option.default is option.empty else str(option.default).lower()}"
        for name, option in inspect.signature(function).parameters.items()
        if option.kind is option.KEYWORD_ONLY and name not in ("where", "groups")
    )
    references = " ".join(text.partition("References:")[2].partition("Example:")[0].split())
    who, number = (re.search(p, references) for p in (r"^.*? \d{4}", r"arXiv:([\d.]*\d)"))
    link = f"[arXiv:{number[1]}](https://arxiv.org/abs/{number[1]})" if number else ""
    source = ", ".join(filter(None, (who[0] if who else "", link)))
    return f"`{function.__name__}`", about, options, source


def functions() -> str:
    """The merging functions outside the registry, as a table."""
    rows: list[tuple[str, ...]] = []
    for family in FAMILIES:
        module = importlib.import_module(f"wslax.merge.{family}")
        rows += [
            _row(value)
            for name, value in vars(module).items()
            if inspect.isfunction(inspect.unwrap(value)) and not name.startswith("_")
            if value.__module__ == module.__name__
        ]
    return _table(("function", "what it does", "options and defaults", "source"), rows)


def _latest(name: str) -> dict:
    """The rows of the last record of a benchmark, by what they measured; empty without one."""
    lines = (DOCS.parent / "benchmarks" / "results.jsonl").read_text("utf-8").splitlines()
    records = [record for record in map(json.loads, lines) if record["name"] == name]
    rows = records[-1]["rows"] if records else []
    return {row["what"]: statistics.median(row["value"]) for row in rows}


def measured() -> str:
    """What each method computes, how near to mergekit's result and how much faster."""
    found = _latest("streaming")

    def cell(method: str, what: str, form: str) -> str:
        value = found.get(f"{method}: {what}")
        return "" if value is None else form.format(value)

    head = (
        "method", "formula", "entries off by more than 1e-5", "largest difference",
        "the same in bfloat16", "mergekit's CPU time over wslax's", "bytes a second over a copy's",
    )  # fmt: skip
    rows: list[tuple[str, ...]] = []
    for name, method in {**METHODS, **FURTHER}.items():
        off, most = "share of entries off mergekit's", "largest difference from mergekit's"
        rows.append((
            f"`{name}`", f"${method.formula}$", cell(name, off, "{:.2g}"),
            cell(name, most, "{:.1e}"), cell(f"{name}, bfloat16", most, "{:.1e}"),
            cell(name, "mergekit's CPU time over wslax's", "{:.3g} x"),
            cell(name, "bytes per second over a copy's", "{:.3g} x"),
        ))  # fmt: skip
    return _table(head, rows)


def _spread(lines: list[dict], part: str, whole: str) -> str:
    """Shares of groups that were taken, by factor."""
    factors = sorted({line["factor"] for line in lines if line["factor"] > 1})
    shares = []
    for factor in factors:
        here = [line for line in lines if line["factor"] == factor]
        count = sum(line[whole] for line in here)
        shares.append(f"{sum(line[part] for line in here) / count:.0%}" if count else "none there")
    return ", ".join(shares)


def _worst(lines: list[dict], what: str) -> str:
    values = [line[what] for line in lines if what in line]
    return f"{max(values):.1e}" if values else ""


def kept() -> str:
    """What each method of growth keeps, takes and does with moments, from the last record."""
    path = DOCS.parent / "benchmarks" / "exactness.jsonl"
    first, *lines = map(json.loads, path.read_text("utf-8").splitlines())
    shifted = [line for line in lines if "rescaled" in line]
    lines = [line for line in lines if "rescaled" not in line]
    head = (
        "method", "nets", "largest change of an output", "groups taken, by 1.25, 1.5, 2, 3",
        "groups under norms taken", "moments by `exact`, off the gradient", "Adam goes on by",
    )  # fmt: skip
    rows: list[tuple[str, ...]] = []
    methods = dict.fromkeys(line["method"] for line in lines)
    for method in sorted(methods, key=["upcycle", "shrink"].count):
        own = [line for line in lines if line["method"] == method]
        wide = [line for line in own if "free" in line]
        policies = next((line["policies"] for line in own if "policies" in line), [])
        rows.append((
            f"`{method}`", str(len({line["net"] for line in own if "change" in line})),
            _worst(own, "change"), _spread(wide, "taken", "free"),
            _spread(wide, "normed_taken", "normed"), _worst(own, "moments"), ", ".join(policies),
        ))  # fmt: skip
    table, facts = _table(head, rows), first["machine"]
    off = [line for line in shifted if line["factor"] % 1]
    return (
        f"{table}\n\nUnder norms with an epsilon of 0.1, `lemon` by 1.25 and 1.5 changes outputs "
        f"by up to {_worst(off, 'kept')} where the model keeps its epsilon, and by up to "
        f"{_worst(shifted, 'rescaled')} where it takes the one that `grow.check` names.\n\n"
        f"*{facts['date']}, {facts['device']}, jax {facts['versions']['jax']}, float32, compiled "
        "without most optimisations. "
        "`python -m benchmarks.exactness`*"
    )


BYTES, LINK, PER_MEMBER = 2 * 7e9, 4.5e10, 8  # bfloat16; bytes a second; devices of one member


def travelled() -> str:
    """What moves in a generation, from the last record, and what that means for large members."""
    found = _latest("scaling")
    whats = [what for what in found if what.endswith("devices: rows moved")]
    if not whats:
        return "*No record yet: `python -m benchmarks scaling`.*"
    head = ("population", "rows through a device's links", "over an all-gather's")
    ratios = [found[f"{what} over an all-gather's"] for what in whats]
    rows = [
        (what.partition(":")[0], f"{found[what]:,.0f}", f"{ratio:.2f} x")
        for what, ratio in zip(whats, ratios, strict=True)
    ]
    part = found[whats[-1]] * BYTES / PER_MEMBER
    return (
        f"{_table(head, rows)}\n\n"
        "A generation of members of B bytes, each spread over m devices, takes rows × B / m bytes "
        f"through each link. With 7B parameters in bfloat16, {PER_MEMBER} devices a member and the "
        f"last line's population ({PER_MEMBER} times as many devices as it says), that is "
        f"{part / 1e9:,.0f} GB, {part / LINK:,.0f} s over links of {LINK / 1e9:.0f} GB a second, "
        f"where an all-gather would take {part / ratios[-1] / LINK:,.0f} s, and a device's memory "
        f"could not hold the {part / ratios[-1] / 1e9:,.0f} GB that it brings.\n\n"
        "*The table is measured, on [small members](benchmarks.md#a-generation-over-devices); the "
        "last sentence is arithmetic on it, not a run.*"
    )


def _block() -> dict:
    """One block of a language model with 7B parameters, as shapes."""
    import jax

    def shape(*sides: int):
        return jax.ShapeDtypeStruct(sides, "float32")

    attention = {f"{name}/kernel": shape(4096, 4096) for name in ("query", "key", "value", "out")}
    mlp = {f"{name}/kernel": shape(4096, 11008) for name in ("gate", "up")}
    norms = {f"norm_{i}/scale": shape(4096) for i in (0, 1)}
    biases = {f"{name}/bias": shape(4096) for name in ("query", "key", "value")}
    return attention | mlp | {"down/kernel": shape(11008, 4096)} | norms | biases


def _ways() -> list[tuple[str, object]]:
    """Ways to train, as they are called, and what they are."""
    import optax

    from wslax import adapt, select

    adam, block = optax.adamw(1e-4), _block()
    chosen = dict(density=0.05, where="*/kernel")
    return [
        ("all weights, `optax.adamw`", adam),
        ("`select.lift(rank=32, density=0.05)`", select.lift(adam, 32, **chosen)),
        ("`select.lift(rank=32, lora_rank=32)`",
         select.lift(adam, 32, lora_rank=32, where="*/kernel")),
        ("`select.sparse(scores.saliency, density=0.05)`",
         select.sparse(adam, select.scores.saliency, **chosen)),
        ("`adapt.lora(8)`", adapt.lora(8)),
        ("`adapt.lora(32)`", adapt.lora(32)),
        ("`adapt.dora(32)`", adapt.dora(32)),
        ("`adapt.pissa(32)`", adapt.pissa(32)),
        ("`adapt.vera(256)`", adapt.vera(256)),
        ("`adapt.ia3()`", adapt.ia3()),
        ("`adapt.loha(8)`", adapt.loha(8)),
        ("`adapt.lokr(8)`", adapt.lokr(8)),
        ("`adapt.oft(32)`", adapt.oft(32)),
        ("`adapt.boft(4, factors=2)`", adapt.boft(4, factors=2)),
        ("`adapt.bone(64)`", adapt.bone(64)),
        ("`adapt.miss(64)`", adapt.miss(64)),
        ("`adapt.splora(16)`", adapt.splora(16)),
        ("`adapt.splopa(64)`", adapt.splopa(64)),
        ("`adapt.sppara(where=...)`, `adapt.compander(where=...)`",
         adapt.sppara(where="*/kernel")),
        ("`adapt.whole(adapt.norms(params))`", adapt.whole(where=adapt.norms(block))),
        ("`adapt.whole(adapt.biases(params))`", adapt.whole(where=adapt.biases(block))),
    ]  # fmt: skip


def choosing() -> str:
    """Ways to train a model by what they train, largest first."""
    import jax
    import optax

    from wslax import tree
    from wslax.adapter import Adapter

    adam, block = optax.adamw(1e-4), _block()
    whole = tree.nbytes(jax.eval_shape(adam.init, block))
    rows = []
    for call, way in _ways():
        if isinstance(way, Adapter):
            train, _ = jax.eval_shape(way.init, jax.random.key(0), block)
            count, state = tree.size(train), jax.eval_shape(adam.init, train)
        else:
            state = jax.eval_shape(way.init, block)
            moments = optax.tree_utils.tree_get(state, "mu")
            count = tree.size(moments)
        share = f"{count / tree.size(block):.3%}"
        rows.append((count, (call, share, f"{tree.nbytes(state) / whole:.3%}")))
    ranked = sorted(rows, key=lambda row: -row[0])
    return _table(("way", "trains", "optimizer's state"), [cells for _, cells in ranked])


NAMED = {
    "full": "all weights",
    "full, L2 to start": "all weights, drawn to the start",
    "LIFT": "`select.lift`",
    "LoRA": "`adapt.lora`",
}


def learned() -> str:
    """What ways of one size learn of a target, and keep of a source, from the last record."""
    from benchmarks.papers.runner import latest, shown

    tables = latest()["lift"]["tables"]
    titles = [title for title in tables if title.endswith(": accuracies")]
    cases = [title.removesuffix(": accuracies") for title in titles]
    head = ("way", *(f"{case}: {what}" for case in cases for what in ("learned", "kept")))
    rows = []
    for found in zip(*(tables[title] for title in titles), strict=True):
        way = found[0]["way"]
        figures = (shown(row[key]) for row in found for key in ("target", "source at equal gain"))
        rows.append((NAMED.get(way, f"`select.sparse`, {way}"), *figures))
    return _table(head, rows)


PARTS = {
    "choosing.md": (choosing, learned),
    "growing.md": (kept,),
    "methods.md": (markdown, measured, functions),
    "scaling.md": (travelled,),
    "tour.md": (settings,),
}


def page(name: str) -> str:
    """The page with its parts, each between two markers, written anew."""
    text, parts = (DOCS / name).read_text("utf-8"), iter(PARTS[name])
    return re.sub(
        "<!-- generated -->.*?<!-- end -->",
        lambda _: f"<!-- generated -->\n\n{next(parts)()}\n\n<!-- end -->",
        text,
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    for name in PARTS:
        (DOCS / name).write_text(page(name), "utf-8")
