"""A pickle that runs code when it is opened, as an attacker's would: it leaves a file behind, which tests look for."""

from pathlib import Path


def execute(marker):
    Path(marker).write_text("code of a stranger ran")


class Payload:
    """Executed by every unpickler that calls what it is told to call."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return execute, (self.marker,)
