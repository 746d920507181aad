"""A daemon whose training, or whose answers, never end: python hanging_child.py CONFIG step|status."""

import sys
import threading

from edgerev.cli import main
from edgerev.daemon import process
from edgerev.daemon.adaptation import Adaptation
from edgerev.daemon.service import Service

process.LONGEST_STEP_SECONDS = 0.5
cls = {"step": Adaptation, "status": Service}[sys.argv[2]]
setattr(cls, sys.argv[2], lambda self: threading.Event().wait())
sys.exit(main(["serve", "--config", sys.argv[1]]))
