"""The output of a run: rows, trackers, the progress line, the figure and the summary."""
