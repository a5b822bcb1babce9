"""Going back: any step of a run computed again, two runs compared, the steps of an example."""
