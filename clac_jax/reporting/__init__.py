"""What a run writes down: rows, trackers, the progress line, the picture and the summary."""
