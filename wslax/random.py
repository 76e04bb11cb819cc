r"""The random stream: bits are a function of (key, leaf name, member id, element index).

The same words come out in numpy and in `jax.numpy`, whatever the chunking, the order of members,
the number of devices or the default PRNG. That makes a random merge of checkpoints on disk equal to
the same merge in memory, and a resumed evolution equal to an uninterrupted one.

Element \(i\) of a leaf is a keyed 32-bit hash of its index: Wellons' `triple32` permutation with
the stream's second word entering after the first round,

\[h(i) = t_3(t_2(t_1(i + a) \oplus b)), \qquad t_k(x) = m_k (x \oplus (x \gg s_k)),\]

where \((a, b)\) come from two rounds of the same permutation over the key, the BLAKE2b hash of the
name, the member and the upper half of a 64-bit index. Three multiplications an element instead of
threefry's twenty rounds. Not for cryptography. `STREAM_VERSION` changes when the bits change.
"""

import functools
import hashlib
import sys
from typing import Any

import numpy as np

from wslax.errors import WeightSpaceError

STREAM_VERSION = 1

_BLOCK = 1 << 32


def _permute(x: Any, tweak: Any) -> Any:
    """Wellons' triple32 with a tweak after the first round; uint32 in, uint32 out."""
    u = np.uint32
    x = x ^ (x >> u(17))
    x = x * u(0xED5AD4BB)
    x = x ^ (x >> u(11)) ^ tweak
    x = x * u(0xAC4C1B51)
    x = x ^ (x >> u(15))
    x = x * u(0x31848BAB)
    return x ^ (x >> u(14))


def key_words(key: Any) -> tuple[Any, Any]:
    """The two 32-bit words of a key.

    Args:
      key: a JAX key (typed or raw; of longer keys, such as `rbg`'s, the first two words count) or
        an integer seed. `key_words(7) == key_words(jax.random.key(7))`.

    Returns:
      Two uint32 scalars, numpy for a seed and JAX otherwise.

    Raises:
      WeightSpaceError: if `key` is neither, or is a batch of keys.

    Example:
        >>> import jax
        >>> [int(w) for w in key_words(7)], [int(w) for w in key_words(jax.random.key(7))]
        ([0, 7], [0, 7])
    """
    if isinstance(key, (int, np.integer)):
        seed = int(key) & (_BLOCK * _BLOCK - 1)
        return np.uint32(seed >> 32), np.uint32(seed & (_BLOCK - 1))
    jax = sys.modules.get("jax")
    dtype = getattr(key, "dtype", None)
    if jax is not None and dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
        key = jax.random.key_data(key)
        dtype = key.dtype
    if dtype != np.uint32 or key.ndim != 1 or key.shape[0] < 2:
        shape = getattr(key, "shape", type(key).__name__)
        raise WeightSpaceError(
            f"expected one key or an integer seed, got {dtype} {shape}; for one key a member use "
            "`jax.vmap`, or pass one key: members already draw from streams of their own"
        )
    return key[0], key[1]


def name_words(name: str) -> tuple[np.uint32, np.uint32]:
    """Two words from a leaf name; `.` and `/` count as one separator.

    Example:
        >>> name_words("a.b") == name_words("a/b"), name_words("a") == name_words("b")
        (True, False)
    """
    digest = hashlib.blake2b(name.replace(".", "/").encode(), digest_size=8).digest()
    high, low = np.frombuffer(digest, "<u4")
    return np.uint32(high), np.uint32(low)


def _words(words: tuple[Any, ...], count: int, low: int, xp: Any) -> Any:
    """Words of one block of a stream that `words` name, by a Merkle-Damgard chain over them."""
    a, b = np.uint32(0x243F6A88), np.uint32(0x85A308D3 ^ STREAM_VERSION)
    for word in words:
        a, b = _permute(a ^ word, b), _permute(b + word, a)
    index = xp.arange(count, dtype=np.uint32) + (np.uint32(low) + a)
    return _permute(index, b)


@functools.cache
def _compiled() -> Any:
    import jax

    return jax.jit(_words, static_argnames=("count", "low", "xp"))


def bits(key: Any, name: str, size: int, *, member: Any = 0, start: int = 0, xp: Any = np) -> Any:
    """Random words number `start` to `start + size` of one member's leaf.

    Args:
      key: one JAX key or an integer seed; may be traced where `xp` is `jax.numpy`.
      name: the leaf's canonical name (`wslax.tree.leaf_names`), or any label of a decision.
      size: how many words; static.
      member: the member's id, an integer or a traced scalar (so `jax.vmap` over ids works).
      start: index of the first word; static, up to 2**63. Chunks of a leaf join to the same words.
      xp: `numpy` (default, host) or `jax.numpy`.

    Returns:
      `uint32[size]`.

    Raises:
      WeightSpaceError: if `key` is not one key or an integer.

    Example:
        >>> import numpy as np
        >>> whole = bits(0, "dense/kernel", 8, member=3)
        >>> halves = [bits(0, "dense/kernel", 4, member=3, start=s) for s in (0, 4)]
        >>> bool((whole == np.concatenate(halves)).all())
        True
    """
    if hasattr(member, "astype"):
        member = member.astype(np.uint32)
    else:
        member = np.uint32(int(member) & (_BLOCK - 1))
    named = (*key_words(key), *name_words(name), member)
    # Traced once for all streams: the chain over what names one is what tracing would spend on.
    words = _words if xp is np else _compiled()
    parts = []
    with np.errstate(over="ignore"):
        while True:
            block, low = divmod(start, _BLOCK)
            count = min(size, _BLOCK - low)
            parts.append(words((*named, np.uint32(block)), count, low, xp))
            start, size = start + count, size - count
            if size == 0:
                break
    return parts[0] if len(parts) == 1 else xp.concatenate(parts)


def uniform(words: Any) -> Any:
    """Uniform float32 in [0, 1) from 32-bit words: the upper 24 bits times 2**-24.

    Example:
        >>> uniform(bits(0, "w", 2)).dtype
        dtype('float32')
    """
    return (words >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def normal(words: Any) -> Any:
    r"""Standard normal float32 from 32-bit words, by the inverse distribution function.

    Computes \(\sqrt 2\,\mathrm{erf}^{-1}(2u - 1)\) for \(u\) at the middle of one of 2**23
    cells, so the result is finite (|x| < 5.5) and symmetric about zero.

    Args:
      words: uint32, any shape.

    Returns:
      A float32 JAX array of the same shape.

    Example:
        >>> import jax.numpy as jnp
        >>> normal(bits(0, "w", 3, xp=jnp)).shape
        (3,)
    """
    import jax

    middle = (words >> np.uint32(9)).astype(np.float32) + np.float32(0.5)
    return np.float32(np.sqrt(2)) * jax.lax.erf_inv(middle * np.float32(2.0**-22) - np.float32(1))
