"""What the ledgers say of orders, and whether it is right."""
