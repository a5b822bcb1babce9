"""The few types that are used by all packages."""

from __future__ import annotations

import jax
import numpy as np

Array = np.ndarray | jax.Array
"""An array on the host or on a device."""
