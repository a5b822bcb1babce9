"""Records to batches: order, views, labels and shapes; independent of models and devices."""
