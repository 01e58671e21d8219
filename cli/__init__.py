"""The one program, `nightread`."""
