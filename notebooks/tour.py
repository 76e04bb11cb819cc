# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Models as arrays: train, merge, breed, widen, adapt
#
# Eight small nets on real handwritten digits, as one pytree. Every step is a function of that
# tree. Runs in a minute on a CPU.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/wslax/wslax/blob/main/notebooks/tour.ipynb)

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("wslax") is None:
    source = "wslax[run] @ git+https://github.com/wslax/wslax"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], check=True)

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import wslax as ws

train, validation, test = ws.data.digits()
net = ws.nets.mlp(64, (64,), 10)


def accuracy(params, x, y):
    return ws.nets.accuracy(net.apply(params, x), y)


# %% [markdown]
# ## A population
#
# One base learns all digits a little; from it eight experts are trained, each on five of the ten.
# `train` takes a step of *one* member and runs it for all. Batches are
# `[steps, members, batch, ...]`.


# %%
def loss(params, batch, key, member):
    x, y = batch
    return ws.nets.cross_entropy(net.apply(params, x), y)


trainer = ws.population.step_from_loss(loss, optax.adam(3e-3))
N, STEPS = 8, 150


def batches(rows_of_member):
    rng = np.random.default_rng(0)
    rows = [rng.choice(mine, (STEPS, 32)) for mine in rows_of_member]
    return tuple(jnp.asarray(np.stack([part[r] for r in rows], 1)) for part in train)


everything = np.arange(len(train[1]))
first = ws.population.init(net.init, jax.random.key(0), 1)
few = jax.tree.map(lambda x: x[:40], batches([everything]))
first, _ = ws.population.train(
    trainer.step, jax.vmap(trainer.init)(first), few, key=1, per_member=True
)
base = ws.population.member(first.params, 0)

# Expert i sees digits i to i + 4 (modulo 10).
seen = [np.flatnonzero(np.isin(train[1], (np.arange(5) + i) % 10)) for i in range(N)]
experts = ws.population.stack([base] * N)
experts, metrics = ws.population.train(
    trainer.step, jax.vmap(trainer.init)(experts), batches(seen), key=2, per_member=True
)
experts = experts.params

plt.figure(figsize=(6, 3))
plt.plot(metrics["loss"])
plt.xlabel("step")
plt.ylabel("loss of each expert")
plt.show()

# %% [markdown]
# ## Merge
#
# A method takes the population and the base. Its numbers may be traced, so a sweep is one
# `vmap`, compiled once.

# %%
scales = jnp.linspace(0.1, 1.5, 15)
methods = {
    "linear": lambda s: ws.merge.linear(experts),
    "task_arithmetic": lambda s: ws.merge.task_arithmetic(experts, base, coef=s / 4),
    "ties": lambda s: ws.merge.ties(experts, base, density=0.3, lam=s),
    "dare_linear": lambda s: ws.merge.dare_linear(experts, base, key=0, density=0.5, coef=s / 4),
}
single = ws.population.evaluate(accuracy, experts, *test)
plt.figure(figsize=(6, 3))
for name, method in methods.items():
    merged = jax.jit(jax.vmap(method))(scales)
    plt.plot(scales, ws.population.evaluate(accuracy, merged, *test), label=name)
plt.axhline(single.max(), color="grey", linestyle=":", label="best expert")
plt.xlabel("scale")
plt.ylabel("test accuracy, all digits")
plt.legend()
plt.show()

# %% [markdown]
# ## Breed
#
# GENOME crosses by merging, mutates a few weights and keeps the fit. Fitness is accuracy on 200
# validation images.

# %%
x, y = validation[0][:200], validation[1][:200]
pool = jax.jit(lambda key: ws.evolve.genome_init(key, experts, 24))(jax.random.key(3))
end = ws.evolve.run(
    ws.evolve.genome(), pool, lambda members: ws.population.evaluate(accuracy, members, x, y),
    key=4, generations=20, direction="maximize",
)  # fmt: skip
bred = ws.population.member(end.members.params, int(end.members.fitness.argmax()))
print(f"best expert {single.max():.1%}, bred {accuracy(bred, *test):.1%} on test images")

# %% [markdown]
# ## Widen
#
# The trace of a model shows which axes of which leaves are one hidden dimension. An `Edit` changes
# the parameters along it, and by the same map the optimizer's state. The function stays what it was.

# %%
groups = ws.symmetry.infer(net.apply, bred, test[0])
print(groups.table())
edit = ws.grow.widen(groups, {0: 128}, key=jax.random.key(5))
wide = edit.apply(bred)
change = jnp.abs(net.apply(wide, test[0]) - net.apply(bred, test[0])).max()
print(f"{ws.tree.size(bred):,} weights to {ws.tree.size(wide):,}")
print(f"no logit moves by more than {change:.0e}")

# %% [markdown]
# ## Adapt the weights that matter
#
# LIFT trains 5% of each matrix, chosen by its low-rank part, and keeps optimizer state for these
# alone. Here the digits are turned by ninety degrees. What it saves is memory; on a net as small as
# this one it costs accuracy.

# %%
turned = np.rot90(train[0][:300], axes=(1, 2)), train[1][:300]
goal = np.rot90(test[0], axes=(1, 2)), test[1]
optimizers = {
    "full": optax.adam(3e-3),
    "LIFT": optax.chain(
        ws.select.lift(optax.scale_by_adam(), rank=8, density=0.05, refresh_every=50),
        optax.scale_by_learning_rate(3e-2),
    ),
}
for name, optimizer in optimizers.items():
    tuner = ws.population.step_from_loss(loss, optimizer)
    member = ws.population.stack([tuner.init(wide)])
    data = tuple(jnp.broadcast_to(part, (100, *part.shape)) for part in turned)
    tuned, _ = ws.population.train(tuner.step, member, data, key=6)
    tuned = ws.population.member(tuned.params, 0)
    share = ws.tree.nbytes(tuner.init(wide).opt_state) / ws.tree.nbytes(wide)
    print(f"{name}: turned {accuracy(tuned, *goal):.1%}, upright {accuracy(tuned, *test):.1%}")
    print(f"  optimizer state {share:.2f} times the weights")
