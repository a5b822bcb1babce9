"""The map: a folder with a page that shows the crystals and texts of an index, and figures of it."""
