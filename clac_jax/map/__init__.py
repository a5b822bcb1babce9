"""The map of an index: a page with its crystals and texts, and figures of it."""
