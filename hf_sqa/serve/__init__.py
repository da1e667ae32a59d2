"""A service: scores over HTTP, with limits, batches of waiting requests, and numbers for Prometheus. Needs the extra `serve`."""
