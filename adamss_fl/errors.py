"""The two exceptions that a user meets; every other exception is a defect of ours."""


class AdamssError(Exception):
    """A failure of the work itself (exit code 1), for example a run whose quorum was lost."""


class InputError(AdamssError):
    """Bad input (exit code 2). Its text is one line: what is wrong, where, and how to mend it."""
