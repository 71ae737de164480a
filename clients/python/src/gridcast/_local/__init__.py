"""Local files and streams behind the ports of the flows: everything here may block."""
