"""Every key of a run's config: defaults, checks and the JSON form."""
