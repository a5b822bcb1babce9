"""The optimizer of a checkpoint of the PyTorch release: its settings and moments."""

from __future__ import annotations

from typing import Any

import numpy as np

from clac_jax.errors import one_line
from clac_jax.interop.lightning_file import LightningFile, as_number

BUFFERS = (
    "running_mean", "running_var", "num_batches_tracked", "RBF.freqs", "rbf.centers",
    "position_ids", "token_type_ids",
)  # fmt: skip
"""Ends of the names of buffers in the state dict, which are not parameters."""

KINDS = {"mu": "exp_avg", "nu": "exp_avg_sq", "trace": "momentum_buffer", "count": "step"}
"""Optimizer state per parameter: Optax name -> PyTorch name."""

_PARTS = ("graph_encoder.", "text_encoder.", "loss.")
# Setting of a group of parameters -> key of the config.
_SETTINGS = {"lr": "learning_rate", "eps": "optimizer.eps", "momentum": "optimizer.momentum"}
_OPTIONS = ("amsgrad", "maximize", "nesterov")


def use_groups(saved: LightningFile, config: Any) -> list[str]:
    """Sets the optimizer's settings in the config to those that applied, of its first group.

    A resumed run of the release has the settings of the optimizer, not of the hyperparameters. The
    learning rate is only compared for the constant schedule; others compute it.

    Returns:
        One line for each setting that differs, and for further groups.
    """
    if len(saved.optimizers) != 1 or not saved.optimizers[0].groups:
        return []
    group, *others = saved.optimizers[0].groups
    notes: list[str] = []

    def use(key: str, value: float | None, below: float = float("inf")) -> None:
        before = config[key] if "." not in key else config.optimizer[key.partition(".")[2]]
        if value is None or not 0 <= value < below or value == before:
            return
        config.update_from_flattened_dict({key: float(value)})
        notes.append(f"{key} is {value:g}, as in the state of the optimizer, not {before:g}")

    for theirs, ours in _SETTINGS.items():
        if theirs != "lr" or config.schedule == "constant":
            use(ours, as_number(group.get(theirs)))
    betas = group.get("betas")
    if isinstance(betas, list | tuple) and len(betas) == 2:
        use("optimizer.b1", as_number(betas[0]), below=1)
        use("optimizer.b2", as_number(betas[1]), below=1)
    number = len(notes)
    use("weight_decay", as_number(group.get("weight_decay")))
    if len(notes) > number:
        config.optimizer.weight_decays = ((".*", config.weight_decay),)  # biases, too
    if others:
        differing = sorted(
            str(key)
            for key in group
            if key != "params" and any(repr(each.get(key)) != repr(group[key]) for each in others)
        )
        what = f"which differ in {one_line(', '.join(differing))}" if differing else "all alike"
        notes.append(
            f"the optimizer has {len(others) + 1} groups of parameters, {what}; here all "
            "parameters have the settings of the first"
        )
    return notes


def unread_state(saved: LightningFile) -> list[str]:
    """The parts of the file without a counterpart here, besides tensors, one line each."""
    kinds: dict[str, None] = {}
    options: dict[str, None] = {}
    for optimizer in saved.optimizers:
        for state in optimizer.state.values():
            kinds |= {str(kind): None for kind in state if kind not in KINDS.values()}
        for group in optimizer.groups:
            options |= {name: None for name in _OPTIONS if group.get(name) is True}
    return [
        *(f"optimizer state {one_line(kind)}" for kind in kinds),
        *(f"optimizer option {name}" for name in options),
        *(f"part {one_line(name, 200)}" for name in saved.unread),
    ]


def read_moments(saved: LightningFile, notes: list[str]) -> dict[str, dict[str, np.ndarray]]:
    """The optimizer state by kind and parameter name; {} without an optimizer.

    The optimizer numbers the parameters in the order of the state dict, which also contains buffers
    and repeats tied weights. Tensors outside of the model, such as averages of its weights, are
    passed over if only the others agree with its count. "step" is returned as an array with the
    shape of the parameter.

    Args:
        saved: the checkpoint.
        notes: receives a line if there is not exactly one optimizer.

    Raises:
        ValueError: the optimizer and the model do not belong together.
    """
    if len(saved.optimizers) != 1:
        if "optimizer_states" not in saved.missing:
            notes.append(
                f"the file has {len(saved.optimizers)} optimizer states instead of 1; the moments "
                "and the step count start at zero"
            )
        return {}
    optimizer = saved.optimizers[0]
    parameters: dict[str, np.ndarray] = {}
    tied: set[int] = set()
    for name, tensor in saved.state_dict.items():
        if not name.endswith(BUFFERS) and id(tensor) not in tied:
            parameters[name] = tensor
            tied.add(id(tensor))
    of_model = {name: parameters[name] for name in parameters if name.startswith(_PARTS)}
    if len(parameters) != len(optimizer.numbers) == len(of_model):
        parameters = of_model
    if sorted(optimizer.numbers) != list(range(len(parameters))):
        raise ValueError(
            f"its optimizer has {len(optimizer.numbers)} parameters, its model {len(parameters)}"
        )
    moments: dict[str, dict[str, np.ndarray]] = {kind: {} for kind in KINDS.values()}
    for number, (name, tensor) in enumerate(parameters.items()):
        of_parameter = optimizer.state.get(number, {})
        for kind, of_kind in moments.items():
            value = of_parameter.get(kind)
            if kind == "step":
                value = as_number(0 if value is None else value)
                if value is None or not 0 <= value < 1 << 31:
                    raise ValueError(f"the optimizer's step of {name} is not a count")
                value = np.broadcast_to(np.float64(value), tensor.shape)
            elif value is None:  # a broadcast zero, which takes no memory
                value = np.broadcast_to(np.zeros((), tensor.dtype), tensor.shape)
            if not isinstance(value, np.ndarray) or value.shape != tensor.shape:
                raise ValueError(f"the optimizer's {kind} of {name} has the wrong shape")
            of_kind[name] = value
    return moments
