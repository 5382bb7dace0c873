"""An engine that several processes run together, one device each: a leader of rank 0 and its followers."""
