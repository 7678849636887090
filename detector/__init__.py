"""The tutorial's second service: decides what is fraud. `rule` is the only place that knows."""
