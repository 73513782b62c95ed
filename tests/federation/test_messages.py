"""What the server is told of an exception at a site."""

import errno
import pickle

import pytest

from adamss_fl.errors import InputError, MachineError
from adamss_fl.federation.messages import PolicyRefusal, SiteFailure, failure_code


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (SiteFailure("no_task"), "no_task"),
        (PolicyRefusal("paused"), "paused"),
        (InputError("/data/CHUM-001/ct.nii.gz: not an image"), "bad_input"),
        (MachineError("/data/CHUM-001 fits no memory", "out_of_memory"), "out_of_memory"),
        (pickle.loads(pickle.dumps(MachineError("the GPU failed", "device_failed"))), "device_failed"),
        (OSError(errno.ENOSPC, "No space left on device", "/state/CHUM-001"), "disk_full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk_full"),
        (OSError(errno.EACCES, "Permission denied"), "site_error"),
        (FileNotFoundError("/data/CHUM-001/ct.nii.gz"), "site_error"),
        (ValueError("CHUM-001"), "site_error"),
    ],
)
def test_a_code_says_what_the_coordinator_can_act_on_and_nothing_of_the_site(failure: Exception, code: str) -> None:
    assert failure_code(failure) == code
