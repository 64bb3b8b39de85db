"""The tasks that ``cloudq demo`` runs; also an example to read."""
