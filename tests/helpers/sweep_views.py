"""Sweeps to show: one of thirty trials, and a population of six members in five generations."""

import math

import numpy as np

from clac_jax.sweeps import choice, integer, log
from clac_jax.sweeps.view import SweepView, TrialView

SPACE = {
    "learning_rate": log(1e-5, 1e-2),
    "batch_size": choice(16, 32, 64),
    "loss.name": choice("infonce", "siglip", "jsd"),
    "schedule": choice("constant", "cosine"),
    "cosine.epochs": integer(5, 40, when={"schedule": "cosine"}),
}


def thirty_trials():
    """Complete, pruned, failed and running trials whose value depends on the learning rate."""
    rng = np.random.default_rng(5)
    trials = []
    for number in range(30):
        params = {name: domain.at(rng.random()) for name, domain in SPACE.items()}
        if params["schedule"] != "cosine":
            del params["cosine.epochs"]
        worse = abs(math.log10(params["learning_rate"]) + 3.2) + 0.1 * (params["batch_size"] == 16)
        curve = [
            (
                39 * (epoch + 1),
                epoch,
                1.2 + worse + 2.4 / (epoch + 1.5) + 0.05 * rng.standard_normal(),
            )
            for epoch in range(8)
        ]
        state = "complete"
        if number == 11:
            state, curve = "failed", curve[:2]
        elif number >= 28:
            state, curve = "running", curve[: number - 26]
        elif number > 5 and worse > 1.5:
            state, curve = "pruned", curve[:3]
        trials.append(
            TrialView(
                number,
                state,
                params,
                curve,
                math.nan if state == "failed" else min(value for *_, value in curve),
                61.5 * len(curve),
                f"trials/{number:04}",
                note="The loss is nan at step 61." if state == "failed" else "",
            )
        )
    facts = [("Sampler", "tpe, seed 1; 4 trials at a time"), ("Storage", "sqlite, sweep.db")]
    return SweepView("lr", "val_loss", "min", trials, SPACE, facts)


def population():
    """Six members in five generations; the worst two of each exploit the best ones."""
    rng = np.random.default_rng(3)
    space = {"learning_rate": log(1e-5, 1e-2), "weight_decay": log(1e-6, 1e-1)}
    trials, before = [], []
    for generation in range(5):
        worst_first = sorted(before, key=lambda trial: -trial.value)
        members = []
        for member in range(6):
            changed, parent = {}, before[member] if before else None
            if parent in worst_first[:2]:
                parent = worst_first[-1 - worst_first.index(parent)]
                changed = {
                    key: (value, value * float(rng.choice([0.8, 1.25])))
                    for key, value in parent.params.items()
                }
            start = parent.value if parent else 4.0
            params = (
                dict(parent.params) if parent else {k: d.at(rng.random()) for k, d in space.items()}
            )
            params |= {key: now for key, (_, now) in changed.items()}
            off = abs(math.log10(params["learning_rate"]) + 3)
            value = start - 0.5 / (1 + off) / (1 + 0.4 * generation) + 0.05 * rng.random()
            last = generation == 4 and member > 3
            values = [] if last else [(39 * (generation + 1), generation, value)]
            members.append(
                TrialView(
                    6 * generation + member,
                    "running" if last else "complete",
                    params,
                    values,
                    None if last else value,
                    70.0,
                    f"members/{member:02}/gen_{generation:02}",
                    member=member,
                    generation=generation,
                    parent=None if parent is None else parent.number,
                    changed=changed,
                    exploits=bool(changed),
                )
            )
        trials += members
        before = members
    return SweepView("pbt", "val_loss", "min", trials, space)
