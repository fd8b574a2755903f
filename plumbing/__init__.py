"""What Temporal needs around an order, one file a concern: connection, admission, process."""
