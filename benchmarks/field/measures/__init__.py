"""What is measured: each takes the ground, a contestant and the figures to add to."""
