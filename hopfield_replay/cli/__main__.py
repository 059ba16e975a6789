import sys

from hopfield_replay.cli import main

sys.exit(main())
