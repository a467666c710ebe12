"""What observes: log lines and metrics."""
