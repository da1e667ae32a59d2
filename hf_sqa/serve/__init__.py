"""A service: scores over HTTP, with limits, batches of waiting requests, and metrics for Prometheus. Needs the extra `serve`."""
