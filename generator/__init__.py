"""The tutorial's first service: writes random transactions."""
