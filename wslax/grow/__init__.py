"""Growth: a wider network that computes what the narrow one did, with its optimizer state."""

from typing import TYPE_CHECKING

from wslax._lazy import attach

if TYPE_CHECKING:
    from wslax.grow import stages as stages
    from wslax.grow import supernet as supernet
    from wslax.grow.checking import Checked as Checked
    from wslax.grow.checking import check as check
    from wslax.grow.depth import deepen as deepen
    from wslax.grow.donors import aki as aki
    from wslax.grow.jobs import Schedule as Schedule
    from wslax.grow.jobs import Stage as Stage
    from wslax.grow.jobs import schedule as schedule
    from wslax.grow.learned import Operator as Operator
    from wslax.grow.learned import tune as tune
    from wslax.grow.ligo_deep import ligo_depth as ligo_depth
    from wslax.grow.ligo_wide import WidthRows as WidthRows
    from wslax.grow.ligo_wide import ligo_width as ligo_width
    from wslax.grow.masking import masked as masked
    from wslax.grow.maximal import gradmax as gradmax
    from wslax.grow.method import Method as Method
    from wslax.grow.method import WidthMap as WidthMap
    from wslax.grow.registry import METHODS as METHODS
    from wslax.grow.shrinking import shrink as shrink
    from wslax.grow.stacks import Stack as Stack
    from wslax.grow.stacks import blocks as blocks
    from wslax.grow.templates import CHOICES as CHOICES
    from wslax.grow.templates import Mixture as Mixture
    from wslax.grow.templates import Templates as Templates
    from wslax.grow.templates import mixture as mixture
    from wslax.grow.upcycling import upcycle as upcycle
    from wslax.grow.width import widen as widen
    from wslax.symmetry.states.adam import CountedAdamState as CountedAdamState
    from wslax.symmetry.states.adam import scale_by_adam as scale_by_adam
    from wslax.symmetry.states.moments import MOMENTS as MOMENTS
    from wslax.symmetry.states.moving import POLICIES as POLICIES

__getattr__, __all__ = attach(
    __name__,
    {
        "CHOICES": "wslax.grow.templates",
        "Checked": "wslax.grow.checking",
        "CountedAdamState": "wslax.symmetry.states.adam",
        "METHODS": "wslax.grow.registry",
        "MOMENTS": "wslax.symmetry.states.moments",
        "Method": "wslax.grow.method",
        "Mixture": "wslax.grow.templates",
        "Operator": "wslax.grow.learned",
        "POLICIES": "wslax.symmetry.states.moving",
        "Schedule": "wslax.grow.jobs",
        "Stack": "wslax.grow.stacks",
        "Stage": "wslax.grow.jobs",
        "Templates": "wslax.grow.templates",
        "WidthMap": "wslax.grow.method",
        "WidthRows": "wslax.grow.ligo_wide",
        "aki": "wslax.grow.donors",
        "blocks": "wslax.grow.stacks",
        "check": "wslax.grow.checking",
        "deepen": "wslax.grow.depth",
        "gradmax": "wslax.grow.maximal",
        "ligo_depth": "wslax.grow.ligo_deep",
        "ligo_width": "wslax.grow.ligo_wide",
        "masked": "wslax.grow.masking",
        "mixture": "wslax.grow.templates",
        "scale_by_adam": "wslax.symmetry.states.adam",
        "schedule": "wslax.grow.jobs",
        "shrink": "wslax.grow.shrinking",
        "stages": "wslax.grow.stages",
        "supernet": "wslax.grow.supernet",
        "tune": "wslax.grow.learned",
        "upcycle": "wslax.grow.upcycling",
        "widen": "wslax.grow.width",
    },
)
