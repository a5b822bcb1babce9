"""Records to batches: order, views, labels and shapes. Knows no model and no device."""
