"""Crystal structures: reading, validation, graphs and augmentation."""
