"""`wslax merge`: plan, check, stream, report."""

import json
import math
import pathlib
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from wslax.cli import UsageError
from wslax.cli.show import bar, size
from wslax.errors import WeightSpaceError
from wslax.io.atomic import remove
from wslax.io.safe_yaml import read_yaml
from wslax.merge.files.config import ignored, parse_recipe, read_recipes
from wslax.merge.files.disk import Report, check_out, run_plan, was_made
from wslax.merge.files.documents import Step, in_order, plans_of
from wslax.merge.files.hooks import evaluated, load_function
from wslax.merge.files.plan import Plan, make_plan
from wslax.merge.files.recipe import Recipe
from wslax.merge.files.search import Candidate
from wslax.merge.files.search import search as search_recipe
from wslax.merge.files.vocabulary import Aligned

_OF_METHOD = Parameter(group="Parameters of methods, with --method")
_OF_SEARCH = Parameter(group="Search")


def _from_options(
    models: list[str], method: str, base: str | None, given: dict[str, Any]
) -> Recipe:
    weights = given.pop("weight") or []
    if len(weights) not in (0, 1, len(models)):
        raise UsageError(f"--weight: give one value or {len(models)} (one a model)")
    entries: list[dict[str, Any]] = [{"model": path} for path in models]
    if len(weights) == len(models) > 1:
        for entry, weight in zip(entries, weights, strict=True):
            entry["parameters"] = {"weight": weight}
    elif weights:
        given["weight"] = weights[0]
    parameters = {word: value for word, value in given.items() if value is not None}
    content = {
        "merge_method": method, "models": entries, "base_model": base, "parameters": parameters,
    }  # fmt: skip
    return parse_recipe({k: v for k, v in content.items() if v is not None})


def _recipes(
    paths: list[str], out: str | None, method: str | None, base: str | None, given: dict[str, Any]
) -> tuple[list[Recipe], str]:
    """The recipes and the output that the arguments mean; raises `UsageError`."""
    try:
        if method is not None:
            if out is None:
                raise UsageError("--method takes the models as arguments and the output as --out")
            return [_from_options(paths, method, base, given)], out
        if out is None and len(paths) == 2:
            paths, out = paths[:1], paths[1]
        if len(paths) != 1 or out is None:
            raise UsageError(
                "give a recipe and an output (wslax merge recipe.yaml OUT), or models, --method "
                "and --out (wslax merge A B --method linear --out OUT)"
            )
        if base is not None or any(value is not None for value in given.values()):
            raise UsageError("base and parameters stand in the recipe, or with --method as options")
        return read_recipes(paths[0]), out
    except WeightSpaceError as error:
        raise UsageError(str(error)) from error


def _show_plan(plan: Plan, console: Any, tensors: bool) -> None:
    from rich.markup import escape
    from rich.table import Table

    models = ", ".join(model.reference for model in plan.models if model.reference != plan.base)
    console.print(f"[bold]{plan.method.name}[/]  {plan.method.about}", highlight=False)
    console.print(f"models  {models}", highlight=False, soft_wrap=True, markup=False)
    if plan.base is not None:
        console.print(f"base    {plan.base}", highlight=False, soft_wrap=True, markup=False)
    unused = ignored(plan.recipe)
    if unused:
        console.print(f"ignored {', '.join(unused)}: {plan.method.name} has no such parameter")
    for stacked in plan.stacked:
        console.print(
            f"layers  {stacked.stack}: {len(stacked.layers)} (before: {stacked.before})",
            highlight=False,
            markup=False,
        )
    if plan.vocabulary is not None:
        names = ", ".join(job.name for job in plan.jobs if isinstance(job.parts[0], Aligned))
        console.print(
            f"tokens  {len(plan.vocabulary.tokens.ids):,} in {plan.vocabulary.rows:,} rows "
            f"(before: {plan.vocabulary.sizes[plan.donor.reference]:,}) of {names}",
            highlight=False, soft_wrap=True, markup=False,
        )  # fmt: skip
    console.print(
        f"{len(plan.jobs)} tensors, {size(plan.read)} to read, {size(plan.written)} to "
        f"write, at most {size(plan.peak)} of buffers",
        highlight=False,
    )
    if tensors:
        table = Table("tensor", "dtype", "shape", "rule")
        for job in plan.jobs:
            rule = "copied" if job.compute is None else _values(_given(plan, job))
            table.add_row(escape(job.name), job.spec.dtype.name, str(list(job.spec.shape)), rule)
        console.print(table)


def _given(plan: Plan, job: Any) -> dict[str, Any]:
    """The parameters of a tensor by their words in a recipe."""
    words = {param.name: param.word for param in plan.method.params}
    return {words[name]: value for name, value in job.params.items()}


def _values(params: Any) -> str:
    def text(value: Any) -> str:
        if isinstance(value, tuple):
            return "[" + ", ".join(f"{v:g}" for v in value) + "]"
        return str(value).lower() if isinstance(value, bool) else f"{value:g}"

    return ", ".join(f"{name} {text(value)}" for name, value in params.items())


def _show_report(report: Report, console: Any) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table("parent", "distance to the result")
    for parent in report.parents:
        table.add_row(escape(parent.path), f"{parent.distance:,.4g}")
    console.print(table)
    console.print(
        f"[bold]{escape(report.out)}[/]  {report.tensors} tensors, {size(report.written)}, norm "
        f"{report.norm:,.4g}, all finite; {report.seconds:.1f} s, peak {size(report.peak)}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def _plan_json(plan: Plan) -> dict[str, Any]:
    return {
        "method": plan.method.name,
        "models": [model.reference for model in plan.models],
        "base": plan.recipe.base_model,
        "ignored": ignored(plan.recipe),
        "read": plan.read,
        "written": plan.written,
        "peak_buffers": plan.peak,
        "tensors": [
            {
                "name": job.name, "dtype": job.spec.dtype.name, "shape": list(job.spec.shape),
                "copied": job.compute is None, "parameters": _given(plan, job),
            }
            for job in plan.jobs
        ],
    }  # fmt: skip


def merge(
    *paths: str,
    out: str | None = None,
    method: str | None = None,
    base: str | None = None,
    weight: Annotated[
        list[float] | None, _OF_METHOD, Parameter(negative=(), consume_multiple=True)
    ] = None,
    density: Annotated[float | None, _OF_METHOD] = None,
    lambda_: Annotated[float | None, _OF_METHOD, Parameter("--lambda")] = None,
    t: Annotated[float | None, _OF_METHOD] = None,
    scale: Annotated[float | None, _OF_METHOD] = None,
    gamma: Annotated[float | None, _OF_METHOD] = None,
    epsilon: Annotated[float | None, _OF_METHOD] = None,
    select_topk: Annotated[float | None, _OF_METHOD] = None,
    alpha: Annotated[float | None, _OF_METHOD] = None,
    r: Annotated[float | None, _OF_METHOD] = None,
    eps: Annotated[float | None, _OF_METHOD] = None,
    tol: Annotated[float | None, _OF_METHOD] = None,
    max_iter: Annotated[int | None, _OF_METHOD] = None,
    mask_lambda: Annotated[float | None, _OF_METHOD] = None,
    least: Annotated[int | None, _OF_METHOD] = None,
    common: Annotated[float | None, _OF_METHOD] = None,
    normalize: Annotated[bool | None, _OF_METHOD] = None,
    normalize_weights: Annotated[bool | None, _OF_METHOD] = None,
    rescale: Annotated[bool | None, _OF_METHOD] = None,
    filter_wise: Annotated[bool | None, _OF_METHOD] = None,
    nuslerp_row_wise: Annotated[bool | None, _OF_METHOD] = None,
    nuslerp_flatten: Annotated[bool | None, _OF_METHOD] = None,
    seed: int = 0,
    threads: int = 2,
    shard_bytes: int | None = None,
    allow_nonfinite: Annotated[list[str] | None, Parameter(negative=())] = None,
    digests: Annotated[bool, Parameter(negative=())] = False,
    resume: Annotated[bool, Parameter(negative=())] = False,
    intermediates: str | None = None,
    eval_: Annotated[str | None, Parameter("--eval")] = None,
    search: Annotated[str | None, _OF_SEARCH] = None,
    direction: Annotated[Literal["maximize", "minimize"] | None, _OF_SEARCH] = None,
    budget: Annotated[int, _OF_SEARCH] = 64,
    batch: Annotated[int, _OF_SEARCH] = 8,
    strategy: Annotated[Literal["cma_es", "random"], _OF_SEARCH] = "cma_es",
    dry_run: Annotated[bool, Parameter(negative=())] = False,
    json_: Annotated[bool, Parameter("--json", negative=())] = False,
) -> None:
    """Merge checkpoints by a recipe (`RECIPE.yaml OUT`) or by options (`A B --method M --out OUT`).

    Recipes are mergekit's YAML, of one document or several. Models are folders, files or Hub ids,
    with +LORA where an adapter is put in first. Everything is checked before a byte is written;
    memory stays at a few chunks whatever the size of the models.

    Args:
      paths: a recipe and the output, or the models.
      out: the output: a new folder, or a name ending in .safetensors.
      method: merge without a recipe; see `wslax methods`.
      base: the base model.
      weight: one weight, or one a model.
      density: share of each task vector that is kept.
      lambda_: factor of the merged task vector.
      t: position between two models.
      scale: factor of passthrough.
      gamma: share of largest entries that breadcrumbs drops.
      epsilon: slack of della's density, or least change that ram counts.
      select_topk: share of entries that sce selects.
      alpha: greatest overlap that ramplus_tl counts.
      r: factor of ramplus_tl's raise.
      eps: norm below which multislerp sees no direction.
      tol: angle that karcher takes for zero.
      max_iter: most steps of karcher.
      mask_lambda: how much a task's change outweighs the others', for consensus.
      least: tasks that need an entry, for consensus.
      common: share of the rank for iso_cts's common subspace.
      normalize: divide by the weights.
      normalize_weights: divide multislerp's weights by their sum.
      rescale: restore the L1 norm of trimmed task vectors.
      filter_wise: angles of model_stock row by row.
      nuslerp_row_wise: vectors of nuslerp lie along the first axis.
      nuslerp_flatten: one vector a tensor for nuslerp.
      seed: of random methods.
      threads: tensors worked on at a time.
      shard_bytes: greatest file of the output, in bytes.
      allow_nonfinite: tensors (globs) that may hold NaN or infinity; copied, not merged.
      digests: keep the SHA-256 of every input file.
      resume: go on where the same command was stopped; keep what is written if it is stopped.
      intermediates: folder for the results of named recipes; by default one beside the output that
        is removed at the end.
      eval_: module:function that is given the output's path and returns numbers, which are shown.
      search: module:function, a fitness of a merged folder; finds the numbers that the recipe gives
        as {low: 0, high: 1}.
      direction: whether --search wants more or less of the fitness.
      budget: candidates of --search.
      batch: candidates a turn of --search.
      strategy: of --search.
      dry_run: print the plan, check everything, write nothing.
      json_: print JSON.
    """
    from rich.console import Console

    given = {
        "weight": weight, "density": density, "lambda": lambda_, "t": t, "scale": scale,
        "gamma": gamma, "epsilon": epsilon, "select_topk": select_topk, "alpha": alpha, "r": r,
        "eps": eps, "tol": tol, "max_iter": max_iter,
        "mask_lambda": mask_lambda, "least": least, "common": common, "normalize": normalize,
        "normalize_weights": normalize_weights, "rescale": rescale, "filter_wise": filter_wise,
        "nuslerp_row_wise": nuslerp_row_wise, "nuslerp_flatten": nuslerp_flatten,
    }  # fmt: skip
    if threads < 1:
        raise UsageError(f"--threads: expected at least 1, got {threads}")
    options = {
        "seed": seed, "threads": threads, "shard_bytes": shard_bytes, "digests": digests,
        "allow_nonfinite": allow_nonfinite or (), "resume": resume,
    }  # fmt: skip
    console = Console(stderr=json_, quiet=json_)
    judge = load_function(eval_) if eval_ is not None else None
    if search is not None:
        if method is not None or direction is None or dry_run:
            raise UsageError("--search takes a recipe with ranges and --direction, no --dry-run")
        recipe, target = _searched(
            list(paths), out, load_function(search), console,
            budget=budget, direction=direction, strategy=strategy, batch=batch, seed=seed,
            threads=threads, resume=resume,
        )  # fmt: skip
        recipes = [recipe]
    else:
        recipes, target = _recipes(list(paths), out, method, base, given)
    steps, folder = _steps(recipes, target, intermediates)
    for step in steps[:-1] if not resume else ():
        check_out(step.out)
    check_out(target)
    plans = plans_of(steps, threads)
    if dry_run:
        _show_plans(steps, plans, console, json_)
        return
    try:
        for step in steps:
            plan = make_plan(step.recipe, threads) if step.needs else plans[step.out]
            last = step is steps[-1]
            if resume and not last and was_made(plan, step.out, seed, digests):
                continue
            _show_plan(plan, console, tensors=False)
            with bar(plan.written, "merge") as tell:
                kept = recipes if last else ()
                report = run_plan(plan, step.out, progress=tell, documents=kept, **options)
            scores = evaluated(judge, target) if judge is not None and last else {}
            if json_ and last:
                print(json.dumps(_report_json(report, scores), indent=2))
            _show_report(report, console)
            for name, value in scores.items():
                console.print(f"{eval_}  {name} {value:.6g}", highlight=False, markup=False)
    except BaseException:
        if not resume:
            _remove_made(steps, folder)
        raise
    if intermediates is None:
        _remove_made(steps, folder)


def _remove_made(steps: list[Step], folder: pathlib.Path) -> None:
    """Remove the intermediate results, and their folder if nothing else is in it."""
    for step in steps[:-1]:
        remove(step.out)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _report_json(report: Report, scores: dict[str, float]) -> dict[str, Any]:
    shown = {**report._asdict(), "parents": [parent._asdict() for parent in report.parents]}
    finite = {name: value if math.isfinite(value) else None for name, value in scores.items()}
    return {**shown, "eval": finite} if scores else shown


def _show_plans(steps: list[Step], plans: Any, console: Any, json_: bool) -> None:
    for step in steps:
        if step.out in plans:
            _show_plan(plans[step.out], console, tensors=True)
        else:
            console.print(f"{step.out}  planned when what it needs is made", markup=False)
    if json_ and steps[-1].out in plans:
        print(json.dumps(_plan_json(plans[steps[-1].out]), indent=2))


def _steps(
    recipes: list[Recipe], target: str, intermediates: str | None
) -> tuple[list[Step], pathlib.Path]:
    """The merges of a file in order, and the folder of those that are not the output."""
    out = pathlib.Path(target)
    folder = pathlib.Path(intermediates or f"{out}.intermediates")
    try:
        return in_order(recipes, out, folder), folder
    except WeightSpaceError as error:
        raise UsageError(str(error)) from error


def _searched(
    paths: list[str], out: str | None, function: Any, console: Any, **settings: Any
) -> tuple[Recipe, str]:
    """The best recipe of a search, and the output."""
    if out is None and len(paths) == 2:
        paths, out = paths[:1], paths[1]
    if len(paths) != 1 or out is None:
        raise UsageError("--search: give a recipe and an output")
    file = pathlib.Path(paths[0])
    if not file.is_file():
        raise UsageError(f"{file}: no such file")
    check_out(out)

    def told(candidate: Candidate) -> None:
        values = ", ".join(f"{name} {value:.4g}" for name, value in candidate.values.items())
        text = f"{candidate.fitness:.6g}  {values}"
        console.print(text, highlight=False, soft_wrap=True, markup=False)

    found = search_recipe(
        read_yaml(file.read_text("utf-8")), function, f"{out}.search", told=told, **settings,
    )  # fmt: skip
    console.print(
        f"best of {len(found.candidates)} ({found.direction}): {found.best.fitness:.6g}; all of "
        f"them are in {out}.search",
        highlight=False, soft_wrap=True, markup=False,
    )  # fmt: skip
    return found.recipe, out
