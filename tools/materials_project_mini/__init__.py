"""Facts, narratives and questions of the bundled data set."""
