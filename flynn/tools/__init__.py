"""Python functions as tools: what the model is told of them, and the rounds in which it calls them until it answers."""
