"""What happened: events, and where they go (logs, metrics, traces, the results store)."""
