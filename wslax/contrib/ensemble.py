"""What members say, made one: their outputs are combined and their weights left alone.

Outputs are `[N, ...]`, members first, as `ws.population.evaluate` gives them. `weights` are `[N]`,
or `[N, *rows]` for weights of each row, from `ws.contrib.weights` or by hand. A member whose output
in a row is NaN has no say there. Half types become float32.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from wslax import population as populations
from wslax import tree
from wslax.contrib import weights as weighing
from wslax.errors import WeightSpaceError
from wslax.typing import Array, Params, Scalar

MISSING = 1e-20  # a missing member's odds, next to exp(logit) of those that are there


def top(population: Params, fitness: Array, k: int) -> Params:
    """The k members of highest fitness, the best first.

    Args:
      population: N members, or anything else with a leading member axis, such as their outputs.
      fitness: `[N]`; NaN is worst, equals go to the lower index.
      k: how many; static.

    Returns:
      A population of k members.

    Raises:
      WeightSpaceError: if k is not between 1 and N, or the fitness is not one number a member.

    References:
      GENOME+, arXiv:2503.01155, whose ensemble is the majority vote of the k fittest.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> ws.contrib.ensemble.top(jnp.arange(4), jnp.array([1.0, 9.0, jnp.nan, 3.0]), 2)
        Array([1, 3], dtype=int32)
    """
    n = populations.size(population)
    if not 1 <= k <= n:
        raise WeightSpaceError(f"top: expected k from 1 to {n}, got {k}")
    if jnp.shape(fitness) != (n,):
        raise WeightSpaceError(f"fitness: expected [{n}], got {jnp.shape(fitness)}")
    return populations.take(population, jnp.argsort(-_floats(fitness))[:k])


def vote(outputs: Array, weights: Array | None = None) -> Array:
    """Shares of the members' votes; a member's vote is the class of its largest output.

    `argmax` of the shares is the majority. Ties, of outputs and of shares, go to the lower class.

    Args:
      outputs: `[N, *rows, classes]`, logits or probabilities.
      weights: not negative, see the module; default all alike.

    Returns:
      `[*rows, classes]`, of sum 1; NaN where nobody votes.

    Raises:
      WeightSpaceError: if the weights' shape is no beginning of the outputs'.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> said = jnp.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.2, 0.8]])
        >>> ws.contrib.ensemble.vote(said)
        Array([0.25, 0.75], dtype=float32)
    """
    outputs, weight = _together(outputs, weights)
    votes = jax.nn.one_hot(jnp.argmax(outputs, -1), outputs.shape[-1], dtype=weight.dtype)
    return (weight * votes).sum(0) / weight.sum(0)


def average(logits: Array, weights: Array | None = None) -> Array:
    r"""The mean of the members' probabilities (not of their logits), as logits.

    \[z = \log \sum_i w_i\, \mathrm{softmax}(z_i)\]

    Args:
      logits: `[N, *rows, classes]`, up to a constant; of probabilities give the logarithm.
      weights: not negative, see the module; scaled to sum 1. Default all alike.

    Returns:
      `[*rows, classes]`, normalised log-probabilities; NaN where nobody has a say.

    Raises:
      WeightSpaceError: as `vote`.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> said = jnp.log(jnp.array([[0.9, 0.1], [0.4, 0.6]]))
        >>> jnp.exp(ws.contrib.ensemble.average(said)).round(2)
        Array([0.65, 0.35], dtype=float32)
    """
    logits, weight = _together(logits, weights)
    sums = jax.nn.logsumexp(jax.nn.log_softmax(logits), 0, b=weight)
    return sums - jnp.log(weight.sum(0))


class Fused(NamedTuple):
    """An estimate of several.

    Attributes:
      mean: `[...]`.
      variance: `[...]`, of the mean.
    """

    mean: Array
    variance: Array


def inverse_variance(means: Array, variances: Array) -> Fused:
    r"""The mean of least variance of independent unbiased estimates.

    \[\mu = \sigma^2 \sum_i \mu_i / \sigma_i^2, \qquad \sigma^2 = 1 \Big/ \sum_i 1 / \sigma_i^2\]

    Errors that members share are not averaged away: then \(\sigma^2\) is too small.

    Args:
      means: `[N, ...]`; NaN where a member has no estimate.
      variances: `[N, ...]` or `[N]`, not negative.

    Returns:
      `Fused(mean, variance)`; NaN and infinite where there is no estimate.

    Raises:
      WeightSpaceError: if the variances' shape is no beginning of the means'.

    References:
      Inverse-variance weighting; as in arXiv:2511.08903. With Fisher diagonals as precisions it is
      `ws.merge.fisher`.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> means, variances = jnp.array([0.0, 4.0]), jnp.array([1.0, 3.0])
        >>> fused = ws.contrib.ensemble.inverse_variance(means, variances)
        >>> float(fused.mean), float(fused.variance)
        (1.0, 0.75)
    """
    means = _floats(means)
    variances = _as_long(_floats(variances), means.ndim, means.shape, "variances")
    known = ~jnp.isnan(means) & (variances >= 0)
    variances = jnp.where(known, variances, jnp.inf)
    mean = (weighing.precision(variances) * jnp.where(known, means, 0)).sum(0)
    return Fused(
        jnp.where(jnp.any(jnp.isfinite(variances), 0), mean, jnp.nan), 1 / (1 / variances).sum(0)
    )


class Mixture(NamedTuple):
    """A Bayesian mixture along a sequence of T items.

    Attributes:
      weights: `[N, T + 1]`: before each item, and after the last.
      losses: `[T]`, of the mixture of probabilities.
      regret: how much more the mixture lost in sum than the best member.
      bound: what the regret never exceeds.
    """

    weights: Array
    losses: Array
    regret: Array
    bound: Array


def mixture(losses: Array, prior: Array | None = None, *, temperature: Scalar = 1.0) -> Mixture:
    r"""Sequential prediction by the posterior mixture of the members.

    \[w_{it} \propto \pi_i \exp\Big(-\frac1T \sum_{s < t} \ell_{is}\Big), \qquad
      \ell_t = -\log \sum_i w_{it}\, e^{-\ell_{it}}\]

    With \(T = 1\) that is Bayes' rule. Against the best member \(i\) the mixture loses at most
    \(-T \log \pi_i\) more in sum, \(\log N\) for a uniform prior, whatever the data and however
    long; for \(T < 1\) nothing is promised and the bound is infinite. On many items Bayes settles
    on one member; a larger temperature keeps several.

    Args:
      losses: `[N, items]`, negative log-likelihoods in nats in the order of the items; NaN is an
        item that the member holds impossible.
      prior: `[N]`, positive; scaled to sum 1. Default uniform.
      temperature: \(T > 0\).

    Returns:
      `Mixture(weights, losses, regret, bound)`. Predict with
      `average(logits, weights[:, :-1])`: column t is for item t.

    Raises:
      WeightSpaceError: if the losses are no matrix, or the prior is not one number a member.

    References:
      Universality lens, arXiv:2506.07661; Vovk 1990, Aggregating strategies, for \(T > 1\).

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> found = ws.contrib.ensemble.mixture(jnp.array([[0.1, 0.1, 0.1], [2.0, 2.0, 2.0]]))
        >>> [round(float(w), 3) for w in found.weights[0]]
        [0.5, 0.87, 0.978, 0.997]
        >>> bool(found.regret <= found.bound)
        True
    """
    losses = _floats(losses)
    if losses.ndim != 2:
        raise WeightSpaceError(f"losses: expected [members, items], got {losses.shape}")
    n = losses.shape[0]
    prior = jnp.ones(n, losses.dtype) if prior is None else _floats(prior)
    if prior.shape != (n,):
        raise WeightSpaceError(f"prior: expected one number a member, [{n}], got {prior.shape}")
    losses = jnp.where(jnp.isnan(losses), jnp.inf, losses)
    believed = jnp.log(prior / prior.sum())
    so_far = jnp.pad(jnp.cumsum(losses, 1), ((0, 0), (1, 0)))
    weights = weighing.softmax(believed[:, None] - so_far / temperature)
    mixed = -jax.nn.logsumexp(-losses, 0, b=weights[:, :-1])
    best = jnp.argmin(so_far[:, -1])
    return Mixture(
        weights,
        mixed,
        mixed.sum() - so_far[best, -1],
        jnp.where(jnp.asarray(temperature) >= 1, -temperature * believed[best], jnp.inf),
    )


class Gated(NamedTuple):
    """A fusion by gates.

    Attributes:
      outputs: `[*rows, features]`.
      gates: `[N, *rows, 1 or features]`, of sum 1 over the members.
    """

    outputs: Array
    gates: Array


def gate_init(members: int, features: int, *, per_feature: bool = False) -> Params:
    """Parameters of a gate that begins as the mean of the members.

    Args:
      members: N.
      features: F, the same for all members.
      per_feature: a gate for each feature; default one for the whole member.

    Returns:
      `{"kernel": [N, F, N, G], "bias": [N, G]}` of zeros, G = 1 or F, to be trained with Optax.

    Example:
        >>> import wslax as ws
        >>> ws.contrib.ensemble.gate_init(3, 8)["kernel"].shape
        (3, 8, 3, 1)
    """
    gates = features if per_feature else 1
    return {
        "kernel": jnp.zeros((members, features, members, gates)),
        "bias": jnp.zeros((members, gates)),
    }


def gated(params: Params, outputs: Array, present: Array | None = None) -> Gated:
    r"""Fusion whose weights depend on what the members say, whoever of them is there.

    \[g = \mathrm{softmax}_i(W [z_1; \dots; z_N] + b), \qquad z = \sum_i g_i z_i\]

    The softmax is over members whatever follows (the authors' packaged code takes it over the last
    axis, where it makes scalar gates 1). Of a missing member z is 0 and its logit
    \(\log 10^{-20}\): where all are missing nothing divides by zero, and z is 0.

    Args:
      params: of `gate_init`.
      outputs: `[N, *rows, F]`, the members' features or logits; those of the missing are not read.
      present: bool `[N, *rows]` or `[N]`; default all.

    Returns:
      `Gated(outputs, gates)`.

    Raises:
      WeightSpaceError: if the outputs do not fit the parameters, or `present` the outputs.

    References:
      Mena et al. 2024, Multi-view gated fusion, arXiv:2401.11844.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> views = jnp.array([[2.0], [4.0], [jnp.nan]])
        >>> gate = ws.contrib.ensemble.gate_init(3, 1)
        >>> ws.contrib.ensemble.gated(gate, views, jnp.array([True, True, False])).outputs
        Array([3.], dtype=float32)
    """
    outputs = _floats(outputs)
    n, features = params["kernel"].shape[:2]
    if outputs.ndim < 2 or (outputs.shape[0], outputs.shape[-1]) != (n, features):
        raise WeightSpaceError(f"outputs: expected [{n}, ..., {features}], got {outputs.shape}")
    present = jnp.ones(n, bool) if present is None else jnp.asarray(present)
    there = _as_long(present, outputs.ndim, outputs.shape[:-1], "present")
    outputs = jnp.where(there, outputs, 0)
    logits = jnp.einsum("n...f,nfmg->m...g", outputs, params["kernel"], precision="highest")
    logits = logits + params["bias"].reshape(n, *[1] * (outputs.ndim - 2), -1)
    gates = jax.nn.softmax(jnp.where(there, logits, jnp.log(MISSING)), 0)
    return Gated((gates * outputs).sum(0), gates)


def _floats(x: Array) -> Array:
    x = jnp.asarray(x)
    return x.astype(tree.wide(x))


def _as_long(x: Array, ndim: int, shape: tuple[int, ...], what: str) -> Array:
    """`[N, *some rows]` with axes of 1 behind; its shape is to begin `shape`."""
    x = jnp.asarray(x)
    if x.ndim == 0 or x.shape != shape[: x.ndim]:
        raise WeightSpaceError(f"{what}: expected {shape} or a beginning of it, got {x.shape}")
    return x.reshape(*x.shape, *[1] * (ndim - x.ndim))


def _together(outputs: Array, weights: Array | None) -> tuple[Array, Array]:
    """Outputs without NaN, and weights `[N, *rows, 1]`, 0 where there was one."""
    outputs = _floats(outputs)
    if outputs.ndim < 2:
        raise WeightSpaceError(f"outputs: expected [N, ..., classes], got {outputs.shape}")
    weights = jnp.ones(len(outputs), outputs.dtype) if weights is None else _floats(weights)
    valid = ~jnp.isnan(outputs).any(-1, keepdims=True)
    weight = jnp.where(valid, _as_long(weights, outputs.ndim, outputs.shape[:-1], "weights"), 0)
    return jnp.where(valid, outputs, 0), weight
