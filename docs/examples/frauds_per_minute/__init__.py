"""How many frauds there are in each minute and currency: an example of a service on the engine."""
