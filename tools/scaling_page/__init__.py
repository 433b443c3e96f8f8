"""docs/scaling.md: its tables are plans of `planning`, its text is here."""
