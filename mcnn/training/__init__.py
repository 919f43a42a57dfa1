"""Training: one loop, the networks of the chapters, and many networks trained as one."""

from mcnn import lazy_modules
from mcnn.training.fit import (
    AUGMENTATIONS,
    OPTIMIZERS,
    SCHEDULES,
    DivergenceError,
    Evaluation,
    Step,
    crop_flip,
    evaluate,
    fit,
)

__all__ = [
    "AUGMENTATIONS",
    "OPTIMIZERS",
    "SCHEDULES",
    "DivergenceError",
    "Evaluation",
    "Step",
    "crop_flip",
    "evaluate",
    "fit",
]

__getattr__ = lazy_modules(__name__, __path__)
