"""Programs to begin with, and orders to run them on."""
