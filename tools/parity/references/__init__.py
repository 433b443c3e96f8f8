"""One script per independent implementation. Each runs in an environment of its own and imports nothing of ours."""
