"""Mechanism that knows no contract and no engine."""

import logging

# a library is silent until its user configures logging; set here because `import polymem` loads no logging at all
logging.getLogger("polymem").addHandler(logging.NullHandler())
