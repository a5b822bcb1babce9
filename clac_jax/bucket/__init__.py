"""Workdirs in a bucket: a local mirror, and an uploader that brings the bucket after it."""
