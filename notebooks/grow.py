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
# # A Flax model that grows while it trains
#
# Your own model and training step, three lines more: at step 40 the blocks get wider, at step 80
# there are more of them. The grown model computes what the old one did, Adam goes on, and the loss
# curve does not jump. Runs in under a minute on a CPU.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/wslax/wslax/blob/main/notebooks/grow.ipynb)

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("wslax") is None:
    source = "wslax[run] @ git+https://github.com/wslax/wslax"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], check=True)

# %% [markdown]
# ## A model and its training step
#
# Nothing here knows of wslax.

# %%
import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax

import wslax as ws

train, _, test = ws.data.digits()
x, y = train[0].reshape(-1, 64), train[1]


class Block(nn.Module):
    hidden: int

    @nn.compact
    def __call__(self, x):
        h = nn.relu(nn.Dense(self.hidden, name="up")(nn.LayerNorm(name="norm")(x)))
        return x + nn.Dense(x.shape[-1], name="down")(h)


class Model(nn.Module):
    hidden: int = 32
    depth: int = 2

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(32, name="embed")(x)
        for i in range(self.depth):
            x = Block(self.hidden, name=f"block_{i}")(x)
        return nn.Dense(10, name="out")(x)


optimizer = optax.adam(1e-3)


def training_step(model):
    def step(params, state, x, y):
        loss = lambda p: ws.nets.cross_entropy(model.apply(p, x), y)
        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    return step


model = Model()
params = jax.jit(model.init)(jax.random.key(0), x[:1])
state = optimizer.init(params)


# %% [markdown]
# ## Which dimensions are there?
#
# The trace of the model says: one residual stream, and a hidden dimension in each block.

# %%
groups = ws.symmetry.infer(model.apply, params, x[:1])
stream, *inner = sorted(groups.free, key=lambda group: len(group.sites), reverse=True)
print(f"stream {stream.size}, hidden {[group.size for group in inner]}")

# %% [markdown]
# ## Three lines
#
# `widen` gives the hidden dimensions new units that nothing reads yet, `deepen` adds blocks that begin
# as the identity. The schedule says when, and with which model training goes on from there. All of it
# is traced on shapes at once: a model built at a wrong size would be named here.

# %%
wider = ws.grow.widen(groups, {group.id: 96 for group in inner}, method="zero", key=1)
deeper = ws.grow.deepen(wider.groups, 4)
job = ws.grow.schedule(
    training_step(model),
    {40: (wider, training_step(Model(96))), 80: (deeper, training_step(Model(96, depth=4)))},
    params, state, x, y,
)  # fmt: skip

# %% [markdown]
# ## The loop
#
# As any other. What a checkpoint would hold is put aside after 60 steps.

# %%
losses = []
for t in range(120):
    params, state, loss = job.step(t, params, state, x, y)
    losses.append(float(loss))
    if t + 1 == 60:
        checkpoint = jax.device_get((params, state))
print(job)

# %%
figure, axes = plt.subplots(figsize=(7, 3.5))
axes.semilogy(losses, linewidth=1)
for step, label in {40: "wider", 80: "deeper"}.items():
    axes.axvline(step, color="gray", linestyle=":")
    axes.text(step + 2, max(losses), label, va="top")
axes.set_xlabel("step")
axes.set_ylabel("training loss")
figure.tight_layout()

# %%
final = Model(96, depth=4)
print(
    f"{ws.nets.accuracy(final.apply(params, test[0].reshape(-1, 64)), test[1]):.1%} on test images"
)

# %% [markdown]
# ## Killed and resumed
#
# A checkpoint from after 60 steps has the shapes `job.spec(60)`. The same steps from there end with
# the same bits.

# %%
ws.tree.check_like(checkpoint, job.spec(60))
again = checkpoint
for t in range(60, 120):
    *again, _ = job.step(t, *again, x, y)
same = jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), tuple(again), (params, state))
assert jax.tree.all(same)
