"""Plans of model surgery before anything is trained: `clac-jax ckpt plan`."""
