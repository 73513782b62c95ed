"""Who may take part in a federation: a certificate authority, keys, one signed kit per machine, and revocation.

Import from its modules: ``settings`` reads the consortium file, ``provision`` makes and changes the consortium's
folder, ``requests`` is for a site that makes its own key, ``kits`` opens a kit where it is used.
"""
