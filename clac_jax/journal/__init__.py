"""The journal of a run: a record per step with digests of all that the step used and made."""
