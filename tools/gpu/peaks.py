"""Peak rates of devices, by JAX device kind."""

from __future__ import annotations

# Matrix products in TFLOP/s: float32 outside the tensor cores, TF32 and bfloat16 on them. The data
# sheets list tensor cores with structured sparsity; dense products, as here, reach half of that.
PEAKS: dict[str, dict[str, float]] = {
    # NVIDIA HGX B200 specifications, per GPU; an earlier edition has 80 for float32.
    "NVIDIA B200": {"float32": 75, "tf32": 1100, "bfloat16": 2250},
    # NVIDIA H200 and H100 Tensor Core GPU data sheets; the H200 computes like the H100 SXM.
    "NVIDIA H200": {"float32": 67, "tf32": 494.5, "bfloat16": 989},
    "NVIDIA H100 80GB HBM3": {"float32": 67, "tf32": 494.5, "bfloat16": 989},
    "NVIDIA H100 PCIe": {"float32": 51, "tf32": 378, "bfloat16": 756},
    "NVIDIA H100 NVL": {"float32": 60, "tf32": 417.5, "bfloat16": 835},
    # NVIDIA A100 Tensor Core GPU data sheet: the same rates for all of its boards.
    "NVIDIA A100-SXM4-40GB": {"float32": 19.5, "tf32": 156, "bfloat16": 312},
    "NVIDIA A100-SXM4-80GB": {"float32": 19.5, "tf32": 156, "bfloat16": 312},
    "NVIDIA A100-PCIE-40GB": {"float32": 19.5, "tf32": 156, "bfloat16": 312},
    "NVIDIA A100 80GB PCIe": {"float32": 19.5, "tf32": 156, "bfloat16": 312},
    # NVIDIA L40S and L4 data sheets.
    "NVIDIA L40S": {"float32": 91.6, "tf32": 183, "bfloat16": 362},
    "NVIDIA L4": {"float32": 30.3, "tf32": 60, "bfloat16": 121},
    # NVIDIA Ada GPU Architecture white paper; bfloat16 with float32 accumulation.
    "NVIDIA GeForce RTX 4090": {"float32": 82.6, "tf32": 82.6, "bfloat16": 165.2},
    # NVIDIA Tesla V100 and T4 data sheets; these tensor cores have neither TF32 nor bfloat16.
    "Tesla V100-SXM2-16GB": {"float32": 15.7},
    "Tesla T4": {"float32": 8.1},
}


def model_flops_utilization(
    device: str, arithmetic: str, flops: float | None, seconds: float
) -> float | None:
    """Fraction of the device's peak rate that a step reaches; None if either is unknown.

    Args:
        device: `jax.Device.device_kind`.
        arithmetic: "float32", "tf32" or "bfloat16".
        flops: floating-point operations per step.
        seconds: time per step.
    """
    peak = PEAKS.get(device, {}).get(arithmetic)
    return None if peak is None or flops is None else flops / seconds / (peak * 1e12)
