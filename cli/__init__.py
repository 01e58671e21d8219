"""The one program, `nightread`."""

import os

# pydantic would look through every installed package for a plug-in of its own, at each start, and there is none.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
