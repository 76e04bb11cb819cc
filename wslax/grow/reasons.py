"""Why a group cannot be widened by a method, in one sentence, and what would work."""

from wslax.errors import WeightSpaceError
from wslax.symmetry import layout
from wslax.symmetry.types import Group, Site

PRODUCTS = ("product", "scaled product")
_AVERAGES = ("mean", "variance")


def is_product(group: Group) -> bool:
    """Whether activations are contracted with each other over the units, and with no weight."""
    return any(word in PRODUCTS for word in group.reductions)


def is_averaged(group: Group) -> bool:
    """Whether the model takes a mean or a variance over the units."""
    return any(word in _AVERAGES for word in group.reductions)


def ratio(group: Group, size: int) -> float:
    """By which factor a scaled product of the new width is too small: the root of the widths'."""
    return (size / group.size) ** 0.5 if "scaled product" in group.reductions else 1.0


def refuse(group: Group, method: str, why: str) -> WeightSpaceError:
    """The error that says why a method would not keep the function."""
    return WeightSpaceError(f"group {group.id}: {method} does not keep the function: {why}")


def _levers(group: Group) -> list[tuple[Site, tuple[str, ...]]]:
    """Each site with its levers; none where the groups do not say."""
    return list(zip(group.sites, group.levers or [()] * len(group.sites), strict=True))


def tied(group: Group) -> dict[tuple[object, ...], tuple[str, ...]]:
    """The places that are consumed and something else, with the leaves that may stand in.

    A weight that two uses share (a tied embedding) cannot be divided where it is consumed. The
    leaves that multiply all that it reads, a last norm's scale and bias, are divided in its place.
    """
    consumed = {
        layout.place(site): lever for site, lever in _levers(group) if site.role == "consumed"
    }
    others = {layout.place(site) for site in group.sites if site.role != "consumed"}
    return {place: lever for place, lever in consumed.items() if place in others}


def levers(group: Group) -> frozenset[str]:
    """The leaves that are divided in the place of tied ones."""
    return frozenset(name for lever in tied(group).values() for name in lever)


def is_relieved(group: Group, site: Site) -> bool:
    """Whether what a consumed site reads is divided before it."""
    here = layout.place(site)
    own = {name for s, lever in _levers(group) if layout.place(s) == here for name in lever}
    return not own.isdisjoint(levers(group))


def check_consumers(group: Group, method: str) -> None:
    """Raise unless what the units feed can be divided, or is a product of activations."""
    if "softmax" in group.reductions:
        raise refuse(
            group, method,
            "the model takes a softmax over the units, which shares its weight out again over any "
            "that are added; no method keeps it, so train on from `symmetry.take` and new units",
        )  # fmt: skip
    if "sum" in group.reductions:
        raise refuse(
            group, method,
            "the model sums over the units with no weight on the way, so every copy counts; put a "
            "weight there (`h @ ones` as a leaf) and infer the groups again",
        )  # fmt: skip
    if any(not average.alone for average in group.averages):
        raise refuse(
            group, method,
            "the model takes a mean over these units and others concatenated with them, whose "
            "shares of it would change; normalise the parts before they are concatenated",
        )  # fmt: skip
    consumers = [site for site in group.sites if site.role == "consumed"]
    if is_product(group):
        if consumers:
            raise refuse(
                group, method,
                "activations are contracted with each other over the units, and are read by "
                f"{consumers[0].name} as well, so one share cannot be right for both",
            )  # fmt: skip
        if is_averaged(group):
            raise refuse(
                group, method,
                "a norm stands between the weights and a product of activations over the units; "
                "widen the heads instead of the width of a head",
            )  # fmt: skip
        if not group.scales or not set(group.scales[0]) <= {-1, 0, 1}:
            raise refuse(
                group, method,
                "two activations are contracted with each other over the units, and no scale of "
                "the weights is known that passes to them (`Group.scales`), so no weight could "
                "take the share; widen the heads instead of the width of a head",
            )  # fmt: skip
        return
    if not consumers:
        raise refuse(group, method, "no leaf consumes the group, so none could be divided")
    for place, lever in tied(group).items():
        if not lever:
            raise WeightSpaceError(
                f"{place[0]}: group {group.id}: {method} would divide this leaf as it is consumed, "
                "but it is produced or elementwise along the same axis too, and no scale before it "
                "could be divided in its place; give the two uses a leaf of their own"
            )
    replaced = levers(group)
    for site, lever in _levers(group):
        both = replaced.intersection(lever)
        if both and set(lever) != both:
            raise WeightSpaceError(
                f"{site.name}: group {group.id}: {method} would divide {sorted(both)[0]} in the "
                "place of a tied leaf, but what this leaf reads is scaled by others too; give the "
                "tied uses a leaf of their own"
            )


def check_even(group: Group, size: int, method: str) -> None:
    """Raise where uneven copies would change a mean over the units."""
    if is_averaged(group) and size % group.size:
        word = next(word for word in group.reductions if word in _AVERAGES)
        raise refuse(
            group, method,
            f"the model takes the {word} over its {group.size} units, which uneven copies change; "
            f"choose a multiple such as {group.size * (size // group.size + 1)}, or lemon",
        )  # fmt: skip
