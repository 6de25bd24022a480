"""Values, binding, taps, plan: the graph that maps a batch to named losses."""
