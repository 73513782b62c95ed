"""The mathematics of a federation, with no network in it: Site, Update, RoundPlan, rounds, aggregation, checkpoints.

Import from its modules; the room itself imports nothing, so that reading a configuration does not load torch.
"""
