"""The benchmark: what durability costs."""
