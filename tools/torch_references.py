"""Writes the fixtures in tests/data/torch: small models of other packages and their outputs.

Requires `pip install torch transformers orb-models` (last run with torch 2.15, transformers 5.23
and orb-models 0.5.5); the tests need none of them.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

TARGET = Path(__file__).parents[1] / "tests" / "data" / "torch"

GEMMA = {
    "vocab_size": 60,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "query_pre_attn_scalar": 12,
    "sliding_window": 4,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "max_position_embeddings": 32,
}
ORB = {"latent_dim": 16, "num_message_passing_steps": 2, "mlp_hidden_dim": 24, "num_mlp_layers": 2}


def randomize(model: torch.nn.Module) -> None:
    """Randomizes all parameters, including those of norms, so that each affects the output."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.3 if parameter.ndim > 1 else 0.2
            shift = 1.0 if "layer_norm" in name and "weight" in name else 0.0
            parameter.copy_(torch.randn(parameter.shape) * scale + shift)


def record(model: torch.nn.Module, loss: torch.Tensor, prefix: str) -> dict[str, np.ndarray]:
    """Gradients of a loss by parameter name; zeros for unused parameters."""
    model.zero_grad()
    loss.backward(retain_graph=True)
    return {
        f"{prefix}/{name}": np.zeros(p.shape, np.float32) if p.grad is None else p.grad.numpy()
        for name, p in model.named_parameters()
    }


def gemma() -> dict[str, np.ndarray]:
    """Runs three texts of different lengths through a Gemma 3 with both types of attention."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    torch.manual_seed(0)
    config = Gemma3TextConfig(**GEMMA, attn_implementation="eager")
    model = Gemma3ForCausalLM(config).eval()
    randomize(model)
    out: dict[str, np.ndarray] = {}
    losses, features = [], []
    for k, length in enumerate((5, 13, 1)):
        ids = torch.randint(0, GEMMA["vocab_size"], (1, length))
        result = model(ids, labels=ids, output_hidden_states=True)
        hidden = result.hidden_states[-1][0]
        out[f"ids/{k}"] = ids[0].numpy().astype(np.int32)
        out[f"hidden/{k}"] = hidden.detach().numpy()
        features.append(torch.sum(hidden[-1] ** 2))
        if length > 1:
            losses.append(result.loss * (length - 1))
    lm_loss = sum(losses) / (4 + 12)
    out["lm_loss"] = lm_loss.detach().numpy()
    out |= {f"w/{name}": p.detach().numpy().copy() for name, p in model.named_parameters()}
    out |= record(model, sum(features), "grad_features")
    return out | record(model, lm_loss, "grad_lm")


def orb() -> dict[str, np.ndarray]:
    """Runs two crystals, with an isolated atom, through the trunk of a direct ORB v3 model."""
    from orb_models.forcefield.angular import SphericalHarmonics
    from orb_models.forcefield.gns import MoleculeGNS
    from orb_models.forcefield.rbf import BesselBasis

    torch.manual_seed(1)
    model = MoleculeGNS(
        **ORB,
        rbf_transform=BesselBasis(r_max=6.0, num_bases=8),
        angular_transform=SphericalHarmonics(lmax=3, normalize=True, normalization="component"),
        outer_product_with_cutoff=True,
        use_embedding=True,
        interaction_params={"distance_cutoff": True, "attention_gate": "sigmoid"},
        activation="silu",
        mlp_norm="rms_norm",
    ).eval()
    randomize(model)
    numbers = torch.tensor([11, 17, 8, 26, 8])
    senders = torch.tensor([0, 0, 1, 1, 1, 2, 3, 3, 0])
    receivers = torch.tensor([1, 0, 0, 1, 0, 3, 2, 3, 1])
    vectors = torch.nn.functional.normalize(torch.randn(len(senders), 3), dim=1)
    vectors = vectors * (1.5 + 4.4 * torch.rand(len(senders), 1))
    batch = SimpleNamespace(
        senders=senders,
        receivers=receivers,
        node_features={
            "atomic_numbers": numbers,
            "atomic_numbers_embedding": torch.nn.functional.one_hot(numbers, 118).float(),
        },
        edge_features={"vectors": vectors},
    )
    nodes = model(batch)["node_features"]
    pooled = torch.stack([nodes[:2].mean(0), nodes[2:].mean(0)])
    out = {
        "atomic_numbers": numbers.numpy().astype(np.int32),
        "crystal": np.asarray([0, 0, 1, 1, 1], np.int32),
        "senders": senders.numpy().astype(np.int32),
        "receivers": receivers.numpy().astype(np.int32),
        "vectors": vectors.numpy(),
        "nodes": nodes.detach().numpy(),
        "pooled": pooled.detach().numpy(),
    }
    # As in a checkpoint file, where the trunk is the attribute `model` of a regressor.
    out |= {f"w/model.{name}": p.detach().numpy().copy() for name, p in model.state_dict().items()}
    grads = record(model, torch.sum(pooled**2), "grad")
    return out | {name.replace("grad/", "grad/model."): value for name, value in grads.items()}


if __name__ == "__main__":
    TARGET.mkdir(parents=True, exist_ok=True)
    for name, make in (("gemma3", gemma), ("orb_v3", orb)):
        path = TARGET / f"{name}.npz"
        np.savez_compressed(path, **make())
        print(f"{path}: {path.stat().st_size} bytes")
