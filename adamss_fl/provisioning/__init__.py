"""A consortium's certificate authority, keys and kits: what makes a federation safe to join."""
