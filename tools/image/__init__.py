"""Builds the container image without Docker, runs it locked down, and reports what happened (`make image-check`)."""
