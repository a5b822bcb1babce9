"""Runs a training unattended: starts it again after a crash, a hang or a pre-emption."""
