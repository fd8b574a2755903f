"""The judge: the same faults and kills through both versions, and what the ledgers say afterwards."""
