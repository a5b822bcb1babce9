"""Config files: plain Python, one `get_config` each."""
