"""When a loss is a spike, by robust statistics of the steps before it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

# The median absolute deviation of a normal distribution times this is its standard deviation.
SIGMA_PER_DEVIATION = 1.4826
# Of the median: losses that hardly vary, as at the end of a run, do not make every step a spike.
SMALLEST_SIGMA = 0.01


def spike_threshold(losses: Sequence[float], factor: float) -> float:
    """The loss above which a step is a spike.

    The median and the median absolute deviation are not moved by a few spikes among the losses,
    unlike mean and standard deviation.

    Args:
        losses: those of the steps before it, all finite.
        factor: how many standard deviations, estimated from the median absolute deviation, the loss
            may lie above the median.
    """
    values = np.asarray(losses, np.float64)
    median = float(np.median(values))
    sigma = SIGMA_PER_DEVIATION * float(np.median(np.abs(values - median)))
    return median + factor * max(sigma, SMALLEST_SIGMA * abs(median))


def describe_spike(loss: float, losses: Sequence[float], window: int, factor: float) -> str:
    """Why a loss is a spike, as a clause; "" if it is none.

    Args:
        loss: a finite loss.
        losses: those of the steps before it, the last `window` of them at most.
        window: number of steps before which no loss is a spike.
        factor: see `spike_threshold`; 0: no loss is a spike.
    """
    if not factor or len(losses) < window or not math.isfinite(loss):
        return ""
    threshold = spike_threshold(losses, factor)
    if loss <= threshold:
        return ""
    median = float(np.median(np.asarray(losses, np.float64)))
    return (
        f"the loss was {loss:.4g}, above {threshold:.4g} (the median of the {len(losses)} steps "
        f"before it is {median:.4g})"
    )
