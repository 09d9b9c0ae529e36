"""The prompt stage: a request becomes an order for the generate stage."""
