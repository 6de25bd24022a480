"""Training schemes around the graph."""
