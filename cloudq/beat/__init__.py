"""Periodic tasks sent on time, by any number of processes of which one leads."""
