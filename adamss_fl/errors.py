"""The exceptions that a user meets; every other exception is a defect of ours."""


class AdamssError(Exception):
    """A failure of the work itself (exit code 1), for example a run whose quorum was lost."""


class InputError(AdamssError):
    """Bad input (exit code 2). Its text is one line: what is wrong, where, and how to mend it."""


class MachineError(InputError):
    """The machine lacks or lost what the work needs; its text says what to change.

    code : all that a server learns of it: ``no_device``, ``out_of_memory`` or ``device_failed``.
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type["MachineError"], tuple[str, str]]:
        return MachineError, (str(self), self.code)
