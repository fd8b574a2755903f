"""What the programs need on a terminal: options, result lines, reports."""
