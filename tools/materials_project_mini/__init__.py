"""Facts, narratives and questions of the embedded data set."""
