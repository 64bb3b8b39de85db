"""Looking after a running system: what the command line, the handlers and the dashboard share."""
