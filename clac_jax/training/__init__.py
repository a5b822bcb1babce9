"""Loss, gradient, optimizer and step, on one device and on many."""
