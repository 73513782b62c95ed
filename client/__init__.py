"""Flower ClientApp: turns a Message into a call on the local Site, and the Site's answer into a Message.

``records`` is the one codec between this project's messages and Flower's records; ``server`` uses it too.
"""
