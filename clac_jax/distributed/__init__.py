"""Several processes as one run: connection, agreement, joint stop, and detection of a loss."""
