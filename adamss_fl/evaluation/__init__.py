"""Judging models: predictions, scores with intervals, the comparison of arms, figures and the report.

Import from its modules; the room itself imports nothing, so that reading a configuration does not load torch.
"""
