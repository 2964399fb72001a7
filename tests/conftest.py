"""What holds for every test."""

from __future__ import annotations

import os
import signal

# A shell without job control starts what runs in the background with SIGINT ignored, and so would be every program
# that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Services that tests start stay on PyTorch, unless the test is about ONNX: exporting takes both cores for seconds.
os.environ["DLENV_ENGINE"] = "eager"
