"""The parts of `make gpu-check`: see tools/gpu_check.py."""
