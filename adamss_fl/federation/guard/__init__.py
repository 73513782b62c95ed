"""A hospital's own rules between its site and whoever asks: policy, approved bundles, audit log, what may leave."""
