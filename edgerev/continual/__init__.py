"""Learning without forgetting: scenarios and metrics."""
