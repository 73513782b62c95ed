"""A stand-in accelerator for tests: the device ``standin``, in the place of a GPU on a machine that has none.

It is PyTorch's extension key PrivateUse1. Its tensors have strides, views and a storage of their own device; the bytes
lie in main memory, where a CPU kernel computes on them. It refuses what CUDA refuses: two devices in one operator, a
generator of another device, ``numpy()``, and use in a process that was forked after the device had been used. It
counts the calls in which a GPU would make the host wait (see ``waits``). Generators and streams of its own it has not:
``torch.Generator(device="standin")`` fails at once, where CUDA fails when the generator meets a CPU tensor.

``switch_on`` makes it available; before, PyTorch reports no accelerator. A process that finds the environment variable
``STAND_IN`` loads it by itself where ``entry_point`` has put it on the path.
"""

from stand_in.device import DEVICE, autoload, switch_on
from stand_in.entry_point import environment_with_stand_in
from stand_in.waits import Waits, count_waits

__all__ = ["DEVICE", "Waits", "autoload", "count_waits", "environment_with_stand_in", "switch_on"]
