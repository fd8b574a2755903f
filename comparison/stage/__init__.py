"""Real processes on ports and in folders of their own, and scenarios played on them."""
