"""Loss, gradients, optimizer and training step, on one or many devices."""
