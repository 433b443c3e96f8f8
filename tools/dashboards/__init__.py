"""The Grafana dashboards of `deploy/grafana/dashboards`, written as Python data."""
