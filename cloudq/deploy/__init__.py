"""Putting an app into an account: what its roles may do, and whether what is deployed fits it."""
