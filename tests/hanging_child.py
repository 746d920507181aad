"""A daemon whose first training step never ends: python hanging_child.py CONFIG."""

import sys
import threading

from edgerev.cli import main
from edgerev.daemon import process
from edgerev.daemon.adaptation import Adaptation

process.LONGEST_STEP_SECONDS = 0.5
Adaptation.step = lambda self: threading.Event().wait()
sys.exit(main(["serve", "--config", sys.argv[1]]))
