"""Several processes as one run: how they meet, agree, stop together and notice a loss."""
