"""Write tests/merge/mergekit_refs.json: what mergekit 0.1.5 makes of tiny inputs.

python tests/peers/make_mergekit_refs.py        (in an environment with mergekit 0.1.5)
"""

import json
import pathlib

import numpy as np

TARGET = pathlib.Path(__file__).parents[1] / "merge" / "mergekit_refs.json"
MIXED = {"weight": [0.2, 0.5, 0.9]}

# (method, mergekit's parameters, members); per-member parameters are lists.
CASES = [
    ("linear", {**MIXED}, 3),
    ("linear", {**MIXED, "normalize": False}, 3),
    ("linear", {"weight": [1.0, -0.5, 0.2]}, 3),
    ("linear", {"weight": [0.3]}, 1),
    ("slerp", {"t": 0.0}, 2),
    ("slerp", {"t": 0.3}, 2),
    ("slerp", {"t": 1.4}, 2),
    ("task_arithmetic", {**MIXED}, 3),
    ("task_arithmetic", {**MIXED, "lambda": 0.7, "normalize": True}, 3),
    ("task_arithmetic", {"weight": [0.5, -0.5, 0.0], "normalize": True}, 3),
    ("ties", {**MIXED}, 3),
    ("ties", {**MIXED, "density": [0.2, 0.5, 0.9]}, 3),
    ("ties", {**MIXED, "density": 0.01, "lambda": 1.5}, 3),
    ("ties", {**MIXED, "density": 0.0}, 3),
    ("ties", {**MIXED, "density": 0.4, "normalize": False, "rescale": True}, 3),
    ("ties", {"weight": [0.5, -0.4, 0.3], "density": 0.6}, 3),
    ("ties", {"weight": 1e-9}, 3),
    ("dare_linear", {**MIXED}, 3),
    ("dare_linear", {**MIXED, "density": 0.0, "normalize": True}, 3),
    ("dare_ties", {**MIXED, "lambda": 0.7}, 3),
    ("dare_ties", {**MIXED, "normalize": True, "rescale": False}, 3),
    ("passthrough", {}, 1),
    ("passthrough", {"scale": [2.5]}, 1),
]


def inputs():
    """Leaves of a base and three members, float32."""
    rng = np.random.default_rng(5)
    plain = rng.normal(size=(4, 5, 6))
    base = rng.normal(size=7)
    return {
        "plain": plain,
        "vector": np.stack([base, *(base + 0.1 * rng.normal(size=(3, 7)))]),
        # parallel to within slerp's threshold, and opposite
        "parallel": np.stack([base, 1.5 * base + 0.01 * rng.normal(size=7), 2 * base, -base]),
        "zero": np.zeros((4, 3)),
        # sums below the rescaling guard
        "tiny": np.concatenate([np.zeros((1, 4)), 1e-9 * rng.normal(size=(3, 4))]),
        # many equal magnitudes, sums of zero
        "signs": np.concatenate([np.zeros((1, 9)), rng.integers(-1, 2, (3, 9))]),
    }


def merged(method, parameters, count, stack):
    """One leaf by mergekit; slerp interpolates from the first member, which is its base."""
    import torch
    from mergekit.merge_methods import get, merge_tensors

    based = any("NON_BASE" in str(p.scope) for p in get(method).spec.parameters)
    tensors = [torch.tensor(x) for x in stack[: count + 1]]
    tensors = tensors if based else tensors[1:]
    first = 0 if based or method == "slerp" else None
    return merge_tensors(tensors, method, parameters=parameters, base_index=first).numpy()


def main():
    """Compute and write."""
    leaves = {name: x.astype(np.float32) for name, x in inputs().items()}
    cases = []
    for method, parameters, count in CASES:
        whole = "density" not in parameters
        # Which of equal magnitudes mergekit keeps is arbitrary.
        names = [name for name in leaves if whole or name != "signs"]
        out = {name: merged(method, parameters, count, leaves[name]).tolist() for name in names}
        cases.append({"method": method, "parameters": parameters, "members": count, "out": out})
    content = {
        "mergekit": "0.1.5",
        "inputs": {name: x.tolist() for name, x in leaves.items()},
        "cases": cases,
    }
    text = json.dumps(
        json.loads(json.dumps(content), parse_float=lambda x: float(f"{float(x):.9g}"))
    )
    TARGET.write_text(text.replace('{"method"', '\n{"method"') + "\n")


if __name__ == "__main__":
    main()
