"""The doors: HTTP listeners for agents, metrics and operators."""
